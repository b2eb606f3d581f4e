"""Sessions that leave the store as a file, and come into it from one; see `portable/`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from state_store import commit as committing
from state_store.archiving import Archiving
from state_store.connection import Control
from state_store.effects import Effects
from state_store.errors import InvalidDraft, StoreError
from state_store.files import Files
from state_store.fingerprint import Fingerprint
from state_store.fingerprints import Fingerprints
from state_store.forms import StoredForm
from state_store.layout import new_lineage, new_session_id
from state_store.leases import Leases
from state_store.lineages import Lineages
from state_store.portable.besides import Besides, EffectsAbroad, take_effects, take_files
from state_store.portable.export import Exported, Source, export
from state_store.portable.imports import Export
from state_store.portable.rows import Place, in_thread
from state_store.records import Session, Snapshot, SnapshotDraft
from state_store.sessions import Sessions
from state_store.snapshots import Snapshots
from state_store.tenants import Tenants
from state_store.unfinished import Begun, Unfinished
from state_store.vault import TenantKey

_LEASE = 3600  # seconds: nobody else may write a session that is not whole yet


class Transfers:
    """See the methods of the same names in `StateStore`."""

    def __init__(
        self,
        control: Control,
        prefix: str,
        tenants: Tenants,
        fingerprints: Fingerprints,
        sessions: Sessions,
        leases: Leases,
        snapshots: Snapshots,
        archiving: Archiving,
        lineages: Lineages,
        files: Files,
        effects: Effects,
        unfinished: Unfinished,
    ) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants = tenants
        self._fingerprints = fingerprints
        self._sessions = sessions
        self._leases = leases
        self._snapshots = snapshots
        self._archiving = archiving
        self._lineages = lineages
        self._files = files
        self._effects = effects
        self._unfinished = unfinished

    async def export_session(
        self,
        session_id: str,
        path: Path,
        *,
        since: str | None,
        tenant: str | None,
        effects: EffectsAbroad | None,
    ) -> Exported:
        session = await self._sessions.get(session_id, tenant=tenant)
        history = [] if session.head is None else await self._snapshots.ancestors(session.head)
        tokens = array("I")
        if session.head is not None:
            tokens = await self._snapshots.tokens(session.head)
        ids = {session.body.fingerprint_id, *(snapshot.fingerprint_id for snapshot in history)}
        fingerprints = {one: await self._fingerprints.get(one) for one in ids}
        body = session.body
        owner = await self._tenants.same(body.tenant, body.tenant_id)
        salt, key = self._tenants.salt(owner, body.economy), self._tenants.key(owner)
        forms = _forms(fingerprints.values(), body.economy, key)
        besides = await self._besides(session, history, since, effects)
        source = Source(session, history, tokens, fingerprints, salt, forms, besides)
        async with self._place() as place:
            return await in_thread(lambda stop: export(source, place, path, since=since, stop=stop))

    async def import_session(
        self, path: Path, *, tenant: str, durability: str, effects: EffectsAbroad | None
    ) -> Session:
        found = await in_thread(lambda _: Export(path), discard=Export.close)
        try:
            fingerprints = [format.fingerprint for format in found.manifest.formats]
            owner = await self._tenants.get(tenant)
            salt = self._tenants.salt(owner, found.manifest.economy)
            forms = _forms(fingerprints, found.manifest.economy, self._tenants.key(owner))
            async with self._place() as place:
                await in_thread(lambda stop: found.store(place, salt=salt, forms=forms, stop=stop))
            for fingerprint in fingerprints:
                await self._fingerprints.add(fingerprint)
            session_id = new_session_id(new_lineage())
            # If this process dies now, the session is found there, empty, and deleted.
            await self._unfinished.put(Begun(tenant, session_id, None, time.time()))
            session = await self._sessions.create(
                tenant=tenant,
                fingerprint=fingerprints[0],
                economy=found.manifest.economy,
                labels=found.manifest.labels,
                meta=found.manifest.meta,
                session_id=session_id,
            )
            try:
                await self._commit(session, found, salt, durability, effects)
            except BaseException:
                await asyncio.shield(self._forget(session))
                raise
            with contextlib.suppress(StoreError):  # it has gone on, which is found out as well
                await self._unfinished.drop(tenant, session_id)
            return await self._sessions.get(session.id)
        finally:
            found.close()

    async def _besides(
        self,
        session: Session,
        history: Sequence[Snapshot],
        since: str | None,
        effects: EffectsAbroad | None,
    ) -> Besides:
        ids = [snapshot.id for snapshot in history]
        first = ids.index(since) if since in ids else 0
        values: list[bytes] = []
        if effects is not None and history:
            merged = {one: ids[max(first, place)] for place, one in enumerate(ids)}
            all_values = await self._effects.all(session.id)
            values = effects.leaving(all_values, session, history, merged)
        return await Besides.gather(self._files, session, history[first:], values)

    async def _commit(
        self,
        session: Session,
        found: Export,
        salt: str,
        durability: str,
        effects: EffectsAbroad | None,
    ) -> None:
        """All snapshots in one step: before it the session is empty, after it whole."""
        lease, _ = await self._leases.acquire(session.id, ttl=_LEASE, owner="import")
        sets = await take_files(self._files, session, found.manifest, _reader(found))
        draft: SnapshotDraft | None = None
        for one, was in zip(found.drafts(session.id, salt), found.manifest.snapshots, strict=True):
            files = None if was.files is None else sets[was.files]
            draft = replace(one, onto=draft, economy=session.body.economy, files=files)
        if draft is not None:
            before = await committing.look(self._control, self._prefix, draft)
            file_bytes, draft = await self._files.of_draft(draft, before.files)
            fingerprints = [await self._fingerprints.get(one.fingerprint_id) for one in draft.chain]
            try:
                if effects is not None:  # first: a session without is one that has done nothing
                    ids = await committing.identify(
                        self._lineages, draft, fingerprints, before=before
                    )
                    old = [snapshot.id for snapshot in found.manifest.snapshots]
                    await take_effects(
                        self._effects, session, found.manifest, _reader(found), effects,
                        dict(zip(old, ids, strict=True)), found.invalid,
                    )  # fmt: skip
                await committing.commit(
                    self._control,
                    self._prefix,
                    self._lineages,
                    draft,
                    fingerprints,
                    lease,
                    durability,
                    before=before,
                    file_bytes=file_bytes,
                )
            except InvalidDraft as error:
                raise found.invalid(str(error)) from error
        await self._leases.release(lease)

    async def _forget(self, session: Session) -> None:
        with contextlib.suppress(StoreError):  # the first error is the one to tell
            await self._sessions.delete(session.id)

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[Place]:
        client = self._control.bulk()
        try:
            yield Place(client, self._prefix, self._archiving.archive)
        finally:
            await asyncio.to_thread(client.close)


def _reader(found: Export) -> Callable[[int], Awaitable[bytes]]:
    async def read(number: int) -> bytes:
        return await asyncio.to_thread(found.content, number)

    return read


def _forms(
    fingerprints: Iterable[Fingerprint], economy: str, key: TenantKey | None
) -> dict[str, StoredForm]:
    return {one.id: StoredForm.of(one, economy=economy, tenant_key=key) for one in fingerprints}
