"""Attachments: values that a caller keeps with one session, by name, and that go with it.

For what belongs to a session and is no part of its history. Those of an encrypted tenant are
sealed, and shredded with the lineage. Their bytes, as stored and with their names, count toward the
tenant's quota. They are in no export.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from state_store.connection import Control
from state_store.durations import milliseconds
from state_store.errors import NotFound, StoreUnavailable
from state_store.layout import LineageKeys, lineage_of
from state_store.lineages import Lineage, Lineages, Seals
from state_store.quotas import Quotas
from state_store.records import Session

_NO_SESSION, _CHANGED = -1, -2


class Attached(NamedTuple):
    """One value as it was read. mark: of its bytes as stored"""

    value: bytes
    mark: str


class Attachments:
    """See `StateStore.attachments`. Every method raises VaultLocked."""

    def __init__(self, control: Control, prefix: str, lineages: Lineages, quotas: Quotas) -> None:
        self._control = control
        self._prefix = prefix
        self._lineages = lineages
        self._quotas = quotas

    async def put(self, session: Session, name: str, value: bytes, *, ttl: float) -> None:
        """See `change`."""
        await self.change(session, {name: value}, ttl=ttl)

    async def change(
        self,
        session: Session,
        values: Mapping[str, bytes | None],
        *,
        ttl: float,
        seen: Mapping[str, Attached | None] | None = None,
    ) -> bool:
        """Keep these, and delete those that are None: all of it or nothing. The quota is asked for
        what all together take more than before.

        ttl: seconds that all of the session's live at least after this. seen: what the change is
        made of; None for what was not there. False, and nothing is changed, if one of it is not as
        it was read. Raises NotFound if the session is gone, QuotaExceeded, InvalidArgument.
        """
        lives = milliseconds(ttl)
        place = self._place(session)
        seals = await self._seals(session)
        kept = {
            name: value if seals is None else seals.seal(value, f"{place}#{name}")
            for name, value in values.items()
            if value is not None
        }
        added = await self._added(place, kept, values)
        tenant = session.body.tenant
        room = await self._quotas.reserve(tenant, bytes=added)
        marks = {name: "" if one is None else one.mark for name, one in (seen or {}).items()}
        pairs: list[tuple[str, bytes | str]] = [*kept.items(), *marks.items()]
        words = [word for pair in pairs for word in pair]
        gone = values.keys() - kept.keys()
        try:
            done = await self._attach(session, lives, len(kept), len(marks), *words, *gone)
            if done == _NO_SESSION:
                raise NotFound(f"no session {session.id}.")
        except StoreUnavailable:
            raise  # it may be kept: the room is held for a while
        except BaseException:
            await self._quotas.release(room)
            raise
        if done == _CHANGED:
            await self._quotas.release(room)
            return False
        if room is not None:
            with contextlib.suppress(StoreUnavailable):  # it is kept; `recover` copies, too
                await self._quotas.mirror(tenant, [lineage_of(session.id)], room=room)
        return True

    async def get(self, session: Session, name: str) -> bytes | None:
        """Raises CorruptObject."""
        found = await self.read(session, name)
        return None if found is None else found.value

    async def read(self, session: Session, name: str) -> Attached | None:
        """As `get`, with what `change` knows it by. Raises CorruptObject."""
        place = self._place(session)
        async with self._control.guard() as client:
            found: bytes | None = await client.hget(place, name)
        if found is None:
            return None
        seals = await self._seals(session)
        value = found if seals is None else seals.open(found, f"{place}#{name}")
        return Attached(value, hashlib.sha1(found, usedforsecurity=False).hexdigest())

    async def delete(self, session: Session, name: str) -> bool:
        """Whether there was one."""
        deleted = await self._attach(session, 0, 0, 0, name) > 0
        if deleted:
            with contextlib.suppress(StoreUnavailable):  # it is deleted; `recover` copies, too
                await self._quotas.mirror(session.body.tenant, [lineage_of(session.id)])
        return deleted

    async def _added(self, place: str, kept: Mapping[str, bytes], names: Iterable[str]) -> int:
        """Bytes that are more when these are kept and all others of the names are gone."""
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.hstrlen(place, name)
            lengths: list[int] = await pipeline.execute()
        added = 0
        for name, length in zip(names, lengths, strict=True):
            added -= length + (len(name.encode()) if length else 0)
            if name in kept:
                added += len(kept[name]) + len(name.encode())
        return max(0, added)

    async def _attach(self, session: Session, *arguments: object) -> int:
        keys = LineageKeys(self._prefix, lineage_of(session.id))
        mark = keys.attach_call(secrets.token_hex(16))  # a call is sent again if its answer is lost
        taken = [keys.session(session.id), self._place(session), keys.usage, mark]
        done: int = await self._control.run("attach", taken, session.id, *arguments)
        return done

    async def _seals(self, session: Session) -> Seals | None:
        return await self._lineages.seals(Lineage.of(session.body))

    def _place(self, session: Session) -> str:
        return LineageKeys(self._prefix, lineage_of(session.id)).attachments(session.id)
