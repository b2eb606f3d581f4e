"""The part of `StateStore` about writing to a session: its lease, and what is committed to it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from state_store import commit as committing
from state_store.connection import Control
from state_store.errors import StoreUnavailable
from state_store.files import Files
from state_store.fingerprint import Fingerprint
from state_store.fingerprints import Fingerprints
from state_store.layout import lineage_of
from state_store.leases import Leases
from state_store.lineages import Lineages
from state_store.quotas import Quotas
from state_store.records import Commit, Lease, Session, SnapshotDraft
from state_store.reserving import reserve
from state_store.sessions import Sessions, session_of
from state_store.uses import Uses


class Writing:
    """Every method raises StoreUnavailable when the store does not answer."""

    files: Files
    _control: Control
    _prefix: str
    _fingerprints: Fingerprints
    _leases: Leases
    _lineages: Lineages
    _quotas: Quotas
    _sessions: Sessions
    _uses: Uses

    async def acquire(
        self, session_id: str, *, ttl: float, owner: str, tenant: str | None = None
    ) -> Lease:
        """Become the one writer of a session for `ttl` s. Raises LeaseHeld, NotFound,
        InvalidArgument."""
        await self._sessions.check_tenant(session_id, tenant)
        lease, _ = await self._leases.acquire(session_id, ttl=ttl, owner=owner)
        return lease

    async def acquire_record(
        self, session_id: str, *, ttl: float, owner: str
    ) -> tuple[Lease, list[bytes | None]]:
        """As `acquire`; and the session's record as it is then, for `opened`."""
        return await self._leases.acquire(session_id, ttl=ttl, owner=owner)

    async def opened(self, session_id: str, record: Sequence[bytes | None]) -> Session:
        """The session of a record. Raises NotFound, CorruptObject, VaultLocked."""
        return await self._sessions.opened(session_of(session_id, record))

    async def writer(self, session_id: str) -> str | None:
        """The owner of the session's lease; None if nobody has it."""
        (owner,) = await self.writers([session_id])
        return owner

    async def writers(self, session_ids: Sequence[str]) -> list[str | None]:
        """As `writer`, of many in one round trip to each server."""
        return await self._leases.owners(session_ids)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Raises LeaseLost, InvalidArgument."""
        await self._leases.renew(lease, ttl=ttl)

    async def release(self, lease: Lease) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self._leases.release(lease)

    async def commit(self, draft: SnapshotDraft, *, lease: Lease, durability: str) -> Commit:
        """Commit a turn: the new snapshot becomes the session's head, or nothing changes; also
        when it goes on from a draft, which is committed with it.

        Raises LeaseLost, HeadMoved, ObjectsMissing, NotFound, UnknownFingerprint, InvalidDraft,
        VaultLocked, InvalidDurability, QuotaExceeded, FilesMissing; after StoreUnavailable the
        commit may or may not have happened: read the head again.
        """
        fingerprints = [await self.fingerprint(one.fingerprint_id) for one in draft.chain]
        tenant = await self._uses.tenant_of(draft.session_id)
        used = self._uses.noting(tenant, draft.session_id, if_listed=True)
        before = await committing.look(self._control, self._prefix, draft, beside=[used])
        file_bytes, draft = await self.files.of_draft(draft, before.files)
        added = sum(file_bytes)
        if added:
            added -= await self.files.loose(draft)
        room = await reserve(self._quotas, self._sessions, tenant, draft, fingerprints, added)
        try:
            done = await committing.commit(
                self._control, self._prefix, self._lineages, draft, fingerprints, lease, durability,
                before=before, file_bytes=file_bytes,
            )  # fmt: skip
        except StoreUnavailable:
            raise  # it may have been committed: the room is held for a while
        except BaseException:
            await self._quotas.release(room)
            raise
        if room is not None:
            with contextlib.suppress(StoreUnavailable):  # it is committed; `recover` copies, too
                await self._quotas.mirror(tenant, [lineage_of(draft.session_id)], room=room)
        return done

    async def identify(self, draft: SnapshotDraft) -> str:
        """The id of the snapshot that a draft makes, whether it is committed or not.

        Raises NotFound, HeadMoved, UnknownFingerprint, InvalidDraft, FilesMissing, VaultLocked.
        """
        fingerprints = [await self.fingerprint(one.fingerprint_id) for one in draft.chain]
        before = await committing.look(self._control, self._prefix, draft)
        _, draft = await self.files.of_draft(draft, before.files)
        ids = await committing.identify(self._lineages, draft, fingerprints, before=before)
        return ids[-1]

    async def remember_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Make a state format known, so that sessions of another one may go on in it."""
        await self._fingerprints.add(fingerprint)

    async def fingerprint(self, fingerprint_id: str) -> Fingerprint:
        """Raises UnknownFingerprint."""
        return await self._fingerprints.get(fingerprint_id)
