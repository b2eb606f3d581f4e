"""Leases: one writer per session."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence

from state_store.connection import Control
from state_store.durations import milliseconds
from state_store.errors import LeaseHeld, LeaseLost, NotFound, StoreError
from state_store.layout import LineageKeys, lineage_of
from state_store.records import Lease, SessionBody
from state_store.uses import Uses


class Leases:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str, uses: Uses) -> None:
        self._control = control
        self._prefix = prefix
        self._uses = uses

    async def acquire(
        self, session_id: str, *, ttl: float, owner: str
    ) -> tuple[Lease, list[bytes | None]]:
        """Become the one writer of a session for `ttl` s; its lease, and body, head and labels of
        the session's record as it is then. Raises LeaseHeld, NotFound, InvalidArgument."""
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        nonce = secrets.token_hex(8)
        outcome, detail, *record = await self._control.run(
            "acquire",
            [keys.session(session_id), keys.lease(session_id), keys.fence],
            owner,
            milliseconds(ttl),
            nonce,
        )
        if outcome == b"no_session":
            raise NotFound(f"no session {session_id}.")
        if outcome == b"held":
            raise LeaseHeld(
                f"{session_id} is being written by {detail.decode()}; wait for it to "
                f"finish. If it died, its lease expires within {ttl:g} s."
            )
        lease = Lease(session_id, owner, int(detail), nonce)
        try:
            await self._uses.note_lease(SessionBody.unpack(record[0]).tenant, session_id)
        except BaseException:  # nobody has it, then
            with contextlib.suppress(StoreError):
                await self.release(lease)
            raise
        return lease, record

    async def owners(self, session_ids: Sequence[str]) -> list[str | None]:
        """Of the leases that are held on sessions, None where none is."""
        keys = [LineageKeys(self._prefix, lineage_of(one)).lease(one) for one in session_ids]
        held = await self._control.exchange([("GET", key) for key in keys])
        return [None if one is None else one.decode().split(":", 2)[2] for one in held]

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Raises LeaseLost, InvalidArgument."""
        await self._set_lease(lease, milliseconds(ttl))

    async def release(self, lease: Lease) -> None:
        """Give the lease back; one that is lost already is no error."""
        tenant = self._uses.end_lease(lease.session_id)
        try:
            await self._set_lease(lease, 0)
        except LeaseLost:
            if tenant is not None:
                await self._uses.forget_deleted(tenant, lease.session_id)

    async def _set_lease(self, lease: Lease, milliseconds: int) -> None:
        keys = LineageKeys(self._prefix, lineage_of(lease.session_id))
        outcome = await self._control.run(
            "renew", [keys.lease(lease.session_id)], lease.token, milliseconds
        )
        if outcome != b"ok":
            raise LeaseLost(f"the lease on {lease.session_id} expired or was taken over.")
