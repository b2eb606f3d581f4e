"""The part of `StateStore` about where bytes are: in the archive, and in files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from state_store.archive.moved import Moved
from state_store.archive.policy import ArchivePolicy
from state_store.archive.residency import Residency
from state_store.archive.sweep import SweepReport
from state_store.archiving import Archiving
from state_store.portable.besides import EffectsAbroad
from state_store.portable.export import Exported
from state_store.records import Session
from state_store.transfers import Transfers


class Moving:
    """Every method raises StoreUnavailable when the store does not answer."""

    _archiving: Archiving
    _transfers: Transfers

    @property
    def has_archive(self) -> bool:
        """Whether one is open here. Looking where sessions are needs none."""
        return self._archiving.archive is not None

    async def archive_session(
        self, session_id: str, *, spare: float = 60.0, tenant: str | None = None
    ) -> Moved:
        """Move everything that a session holds to the archive, however lately it was used: pages,
        states and the contents of files.

        spare: seconds; what is also held by another session of its history that was used within
               them, or is being written, stays.

        A session that is archived lives on: it may be forked, committed to and loaded from.
        Raises NotFound, LeaseHeld while it is being written; ArchiveUnavailable, ArchiveRefused:
        then some objects are moved and the others as they were, and it may be repeated.
        """
        return await self._archiving.archive_session(session_id, spare=spare, tenant=tenant)

    async def bring_back(
        self, any_id: str, *, whole: bool = True, tenant: str | None = None
    ) -> Moved:
        """Move everything that a session, or the history up to a snapshot, holds back to Redis.

        whole: without, only what continuing from there loads: its pages and its one state, and
               the files of its head. Those of earlier turns stay archived, for forks to read there.

        Raises NotFound; StoreFull when there is no room: the rest stays archived and readable;
        ArchivedObjectsLost when everything else is back; ArchiveUnavailable, ArchiveRefused.
        """
        return await self._archiving.bring_back(any_id, whole=whole, tenant=tenant)

    async def bring_files_back(self, session: Session) -> Moved:
        """Move what the files of a session's head need back to Redis, and nothing else. What the
        archive has lost is in the `problems`. Raises as `bring_back`."""
        return await self._archiving.bring_files_back(session)

    async def sweep(self, policy: ArchivePolicy) -> SweepReport:
        """Move sessions out, the idlest first, for as long as the policy gives a reason. Any
        number of processes may sweep at the same time. Raises as `archive_session`, InvalidPolicy.
        """
        return await self._archiving.sweep(policy)

    async def residency(self, session_id: str, *, tenant: str | None = None) -> Residency:
        """Where what a resume of the session needs is: `stored` (Redis), `archived`, `partly`
        (both), `lost` (computed again from its tokens), `tokens` (only those are kept, and nothing
        is lost) or `empty`. Raises NotFound.

        A look at the state and a sample of the pages; a load checks every page and every byte.
        """
        return await self._archiving.residency(session_id, tenant=tenant)

    async def residencies(self, heads: Sequence[str]) -> dict[str, Residency]:
        """As `residency`, by the head, of many sessions in a few round trips. What is gone or
        unreadable is left out."""
        return await self._archiving.residencies(heads)

    async def export_session(
        self,
        session_id: str,
        path: Path,
        *,
        since: str | None = None,
        tenant: str | None = None,
        effects: EffectsAbroad | None = None,
    ) -> Exported:
        """Write a session with its whole history to a new file; see docs/export-format.md.

        since:   a snapshot of its history; what came before is merged into that one
        effects: knows the records of effects; without, they are left out

        The file is not encrypted, whatever the tenant's objects are. Raises NotFound;
        ObjectsMissing, CorruptObject, VaultLocked for what cannot be read: then no file is left;
        ExportFailed for a file that exists or cannot be written.
        """
        return await self._transfers.export_session(
            session_id, path, since=since, tenant=tenant, effects=effects
        )

    async def import_session(
        self,
        path: Path,
        *,
        tenant: str,
        durability: str = "memory",
        effects: EffectsAbroad | None = None,
    ) -> Session:
        """Make a new session of a tenant's, in a lineage of its own, from an export.

        effects: knows the records of effects; without, they are left out

        Everything is checked, and stored under the tenant's own names. An import that fails leaves
        no session and no snapshot, and objects that expire within an hour; a process that dies
        leaves an empty session, which is noted in `unfinished`, or a whole one. A file can be right
        and its states made up: import what you would run. Raises InvalidExport; InvalidTenant,
        StoreFull.
        """
        return await self._transfers.import_session(
            path, tenant=tenant, durability=durability, effects=effects
        )
