"""The store's archive: idle sessions leave Redis, and come back when they are used.

Looking where bytes are needs no archive; moving them needs the one that they are in.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from state_store.archive import open_archive
from state_store.archive.archivist import WORKERS, Archivist
from state_store.archive.base import Archive
from state_store.archive.clock import MOVE_LIMIT, ORPHAN_AGE
from state_store.archive.collect import (
    Condemned,
    collect_condemned,
    collect_orphans,
    count_condemned,
)
from state_store.archive.collect_files import collect_files, count_condemned_files
from state_store.archive.moved import Moved
from state_store.archive.policy import ArchivePolicy
from state_store.archive.residency import Residency, residencies, residency, sample_of
from state_store.archive.sweep import SweepReport, move_session_out, sweep
from state_store.archive.targets import Target, targets_of_resume
from state_store.connection import Control
from state_store.errors import ArchivedObjectsLost, ArchiveUnavailable
from state_store.layout import LineageKeys, is_snapshot_id, lineage_of
from state_store.objects import ObjectClient
from state_store.records import Session, Snapshot
from state_store.sessions import Sessions
from state_store.snapshots import Snapshots
from state_store.uses import Uses

_SAMPLES = 256  # heads of which it is remembered what is looked at


@dataclass(frozen=True)
class Collected:
    """What was cleared out of the archive.

    condemned: generations that nothing names any more, deleted
    orphans:   files that moves which never ended left behind, deleted
    waiting:   condemned generations that are still there: younger than a move may take, or no
               archive is open here to delete them from
    damaged:   of those, what cannot be read and waits for `store check --repair`
    """

    condemned: int = 0
    orphans: int = 0
    waiting: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class _Open:
    archive: Archive
    archivist: Archivist
    client: ObjectClient

    @classmethod
    def at(cls, url: str, control: Control, prefix: str, store_url: str) -> Self:
        """Blocking. Raises ArchiveRefused, ArchiveUnavailable."""
        archive = open_archive(url)
        archive.check()
        client = ObjectClient(store_url, timeout=control.timeout, connections=WORKERS)
        return cls(archive, Archivist(control, prefix, client, archive), client)

    def close(self) -> None:
        self.archivist.close()
        self.client.close()


class Archiving:
    """See the methods of the same names in `StateStore`."""

    def __init__(
        self,
        control: Control,
        prefix: str,
        sessions: Sessions,
        snapshots: Snapshots,
        uses: Uses,
    ) -> None:
        self._control = control
        self._prefix = prefix
        self._sessions = sessions
        self._snapshots = snapshots
        self._uses = uses
        self._samples: OrderedDict[str, list[Target]] = OrderedDict()
        self._opened: _Open | None = None

    async def open(self, url: str, *, store_url: str) -> None:
        """Raises ArchiveRefused for what is not an archive, ArchiveUnavailable."""
        self._opened = await asyncio.to_thread(
            _Open.at, url, self._control, self._prefix, store_url
        )

    async def close(self) -> None:
        if self._opened is not None:
            await asyncio.to_thread(self._opened.close)

    @property
    def archive(self) -> Archive | None:
        """The one that is open."""
        return None if self._opened is None else self._opened.archive

    async def archive_session(self, session_id: str, *, spare: float, tenant: str | None) -> Moved:
        opened = self._require_open()
        session = await self._sessions.record(session_id, tenant=tenant)
        return await move_session_out(
            self._control,
            self._prefix,
            self._snapshots,
            opened.archivist,
            session_id,
            tenant=session.body.tenant,
            spare=spare,
        )

    async def bring_back(self, any_id: str, *, whole: bool, tenant: str | None) -> Moved:
        archivist = self._require_open().archivist
        head: str | None = any_id
        if is_snapshot_id(any_id):
            await self._sessions.check_tenant(any_id, tenant)
        else:
            session = await self._sessions.record(any_id, tenant=tenant)
            head = session.head
            # First: else what is back might stay for good, on no sweep's list.
            await self._uses.note(session.body.tenant, any_id)
        history = await self._history(head)
        lost: ArchivedObjectsLost | None = None
        moved = Moved()
        try:
            if whole or not history:
                moved = await archivist.bring_back(history)
            else:
                resumed = targets_of_resume(self._prefix, history)
                moved = await archivist.bring_back_targets(resumed)
        except ArchivedObjectsLost as error:
            lost = error
        files = await archivist.files.bring_back(history if whole else history[-1:])
        if lost is None and files.problems:
            lost = ArchivedObjectsLost(
                f"{len(files.problems)} archived contents of files are gone or not whole; all else "
                f"is back. {' '.join(files.problems[:3])}",
                [],
            )
        if lost is not None:
            raise lost
        moved.add(files)
        return moved

    async def bring_files_back(self, session: Session) -> Moved:
        archivist = self._require_open().archivist
        keys = LineageKeys(self._prefix, lineage_of(session.id))
        async with self._control.guard() as client:
            archived = await client.exists(keys.cold_files)
        if session.head is None or not archived:
            return Moved()
        await self._uses.note(session.body.tenant, session.id)  # see `bring_back`
        return await archivist.files.bring_back([await self._snapshots.record(session.head)])

    async def sweep(self, policy: ArchivePolicy) -> SweepReport:
        opened = self._require_open()
        report = await sweep(self._control, self._prefix, self._snapshots, opened.archivist, policy)
        report.collected = (await self.collect_condemned()).collected
        return report

    async def collect_condemned(self) -> Condemned:
        """Delete what was archived and is held by nothing any more, as long as an archive is
        open."""
        if self._opened is None:
            return Condemned(0, 0)
        place = (self._control, self._prefix, self._opened.archive)
        found = await collect_condemned(*place, older_than=MOVE_LIMIT)
        files = await collect_files(*place, older_than=MOVE_LIMIT)
        return Condemned(found.collected + files.collected, found.damaged + files.damaged)

    async def residency(self, session_id: str, *, tenant: str | None) -> Residency:
        head = (await self._sessions.record(session_id, tenant=tenant)).head
        if head is None:
            return "empty"
        return await residency(self._control, await self._sample(head))

    async def residencies(self, heads: Sequence[str]) -> dict[str, Residency]:
        """Of those heads whose histories can be read."""
        unknown = [head for head in heads if head not in self._samples]
        samples = {head: self._samples[head] for head in heads if head in self._samples}
        for head, history in (await self._snapshots.histories(unknown)).items():
            samples[head] = self._remembered(head, sample_of(self._prefix, history))
        found = await residencies(self._control, list(samples.values()))
        return dict(zip(samples, found, strict=True))

    async def collect(self) -> Collected:
        """Delete what nothing names any more, as long as an archive is open."""
        if self._opened is None:
            return Collected(waiting=await self._count_condemned())
        archive = self._opened.archive
        condemned = await self.collect_condemned()
        orphans = await collect_orphans(self._control, self._prefix, archive, older_than=ORPHAN_AGE)
        waiting = await self._count_condemned()
        return Collected(condemned.collected, orphans, waiting, condemned.damaged)

    async def _count_condemned(self) -> int:
        place = (self._control, self._prefix)
        return await count_condemned(*place) + await count_condemned_files(*place)

    async def _sample(self, head: str) -> list[Target]:
        """What is looked at of a resume there. A history never changes, and is read once."""
        sample = self._samples.get(head)
        if sample is None:
            sample = sample_of(self._prefix, await self._history(head))
        return self._remembered(head, sample)

    def _remembered(self, head: str, sample: list[Target]) -> list[Target]:
        self._samples[head] = sample
        self._samples.move_to_end(head)
        while len(self._samples) > _SAMPLES:
            self._samples.popitem(last=False)
        return sample

    async def _history(self, head: str | None) -> list[Snapshot]:
        return [] if head is None else await self._snapshots.records(head)

    def _require_open(self) -> _Open:
        if self._opened is None:
            raise ArchiveUnavailable(
                "no archive is open here; nothing was moved. Connect with the archive's URL: "
                "StateStore.connect(url, archive=...), or --archive URL on the command line."
            )
        return self._opened
