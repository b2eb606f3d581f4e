"""The state store: sessions, snapshots and leases over one Redis-compatible server.

    async with await StateStore.connect("unix:///run/valkey.sock") as store:
        session = await store.create_session(tenant="default", fingerprint=fingerprint)
        lease = await store.acquire(session.id, ttl=30, owner="me")
        commit = await store.commit(draft, lease=lease, durability="fsync")
        branch = await store.fork(session.id)

Payloads do not pass through here: engines write and read them with `Payloads`, in the form that
`stored_form` names.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from state_store import durability, erasure, garbage, integrity
from state_store.api_keys import ApiKeys
from state_store.archiving import Archiving, Collected
from state_store.attachments import Attachments
from state_store.commands import Commands
from state_store.connection import Control
from state_store.durability import Servers
from state_store.effects import Effects
from state_store.errors import (
    CorruptObject,
    ForeignTenant,
    NotFound,
)
from state_store.feeds import Feeds
from state_store.files import Files
from state_store.finding import Finding
from state_store.fingerprint import Fingerprint
from state_store.fingerprints import Fingerprints
from state_store.history import Diff, Histories, Place, Tree, TreePage
from state_store.integrity import Report
from state_store.items import Items
from state_store.labels import Labels
from state_store.layout import lineage_of, new_lineage, new_session_id
from state_store.leases import Leases
from state_store.lineages import Lineages
from state_store.moving import Moving
from state_store.notes import Notes, SessionNotes
from state_store.pages import Listed
from state_store.portable.export import Exported
from state_store.quotas import Quotas
from state_store.records import (
    Commit,
    Lease,
    Session,
    Snapshot,
    SnapshotDraft,
)
from state_store.recovering import going_on_without
from state_store.sessions import Sessions
from state_store.snapshots import Snapshots
from state_store.tenancy import Tenancy
from state_store.tenants import Tenants
from state_store.transfers import Transfers
from state_store.unfinished import Unfinished
from state_store.usage import Usages
from state_store.uses import Uses
from state_store.vault import Vault
from state_store.writing import Writing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """snapshots: removed; collected: what was cleared out of the archive"""

    snapshots: int
    collected: Collected


class StateStore(Tenancy, Finding, Moving, Writing):
    """One store. Every method raises StoreUnavailable when it does not answer.

    A method that takes a `tenant` raises ForeignTenant, and does nothing, if what it is asked for
    belongs to another one; None asks nothing. Who holds a lease has passed that already.
    """

    def __init__(self, control: Control, prefix: str, vault: Vault) -> None:
        self._control = control
        self._prefix = prefix
        self.keys = ApiKeys(control, prefix)
        self.unfinished = Unfinished(control, prefix)
        self.feeds = Feeds(control, prefix)
        self._tenants = Tenants(control, prefix, vault)
        self._quotas = Quotas(control, prefix)
        self.notes = Notes(control, prefix, self._tenants, self._quotas)
        self._lineages = Lineages(control, prefix, self._tenants)
        self.session_notes = SessionNotes(control, prefix, self._lineages, self._quotas)
        self._fingerprints = Fingerprints(control, prefix)
        self._commands = Commands(control, prefix)
        self._uses = Uses(control, prefix)
        self._labels = Labels(control, prefix)
        self.items = Items(control, prefix, self._tenants, self._quotas)
        self.effects = Effects(control, prefix, self._lineages, self._quotas)
        self.files = Files(
            control, prefix, self._lineages, self._quotas, lambda: self._archiving.archive
        )
        self.attachments = Attachments(control, prefix, self._lineages, self._quotas)
        self._sessions = Sessions(
            control, prefix, self._tenants, self._lineages, self._uses, self._labels, self._quotas
        )
        self._leases = Leases(control, prefix, self._uses)
        self._snapshots = Snapshots(control, prefix, self._lineages)
        self._archiving = Archiving(control, prefix, self._sessions, self._snapshots, self._uses)
        self._histories = Histories(control, prefix, self._sessions, self._snapshots)
        self._usages = Usages(control, prefix, self._histories)
        self._transfers = Transfers(
            control, prefix, self._tenants, self._fingerprints, self._sessions, self._leases,
            self._snapshots, self._archiving, self._lineages, self.files, self.effects,
            self.unfinished,
        )  # fmt: skip

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        prefix: str = "torpor",
        timeout: float = 10.0,
        archive: str | None = None,
        vault: Vault | None = None,
    ) -> Self:
        """Open the store at a URL (see `address`) and check that it answers.

        timeout: seconds that any one command may take.
        archive: URL of the archive that idle sessions move to, see `archive.open_archive`;
                 raises ArchiveRefused or ArchiveUnavailable when it cannot be used.
        vault:   the master keys of encrypted tenants, who can be deleted without it, but not read
        """
        opened = cls(await Control.connect(url, timeout=timeout), prefix, vault or Vault())
        if archive is not None:
            try:
                await opened._archiving.open(archive, store_url=url)
            except BaseException:
                await opened.close()
                raise
        return opened

    async def close(self) -> None:
        await self._archiving.close()
        await self._commands.close()
        await self._control.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- sessions -----------------------------------------------------------

    async def create_session(
        self,
        *,
        tenant: str,
        fingerprint: Fingerprint,
        economy: str | None = None,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """A new, empty session, the root of a new lineage.

        economy:    class that all of the lineage is stored in; the tenant's if None
        session_id: from `new_session_id`; the session that has it already is returned as it is
        Raises TenantDeleted, VaultLocked, UnknownEconomy, QuotaExceeded, InvalidId, and
        ForeignTenant if the session is another tenant's.
        """
        return await self._sessions.create(
            tenant=tenant, fingerprint=fingerprint, economy=economy, labels=labels, meta=meta,
            session_id=session_id,
        )  # fmt: skip

    async def fork(
        self,
        session_id: str,
        *,
        snapshot_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        fork_id: str | None = None,
    ) -> Session:
        """A new session whose head is `snapshot_id` (the session's head if None), of the same
        lineage.

        fork_id: from `new_session_id`; the session that has it already is returned as it is

        Copies nothing and costs the same at any length.
        Raises NotFound, VaultLocked, QuotaExceeded, InvalidId.
        """
        return await self._sessions.fork(
            session_id, snapshot_id=snapshot_id, labels=labels, meta=meta, tenant=tenant,
            fork_id=fork_id,
        )  # fmt: skip

    async def branch_at(
        self,
        session_id: str,
        *,
        tokens: int,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        fork_id: str | None = None,
    ) -> Session:
        """A fork whose head is the session's last snapshot of at most `tokens` tokens.

        Empty if the first turn is longer. Raises NotFound, VaultLocked.
        """
        parent = await self._sessions.get(session_id, tenant=tenant)
        place = await self._histories.place(parent.head, tokens)
        head = None if place.before is None else place.before.id
        return await self._sessions.branch(parent, head, labels=labels, meta=meta, fork_id=fork_id)

    def new_session_id(self, *, beside: str | None = None) -> str:
        """An id for a session that is made later, and only once however often that is tried.

        beside: id of the session that it will be a fork of, None for one of its own
        """
        return new_session_id(new_lineage() if beside is None else lineage_of(beside))

    async def rewind(
        self,
        session_id: str,
        snapshot_id: str | None,
        *,
        lease: Lease,
        tenant: str | None = None,
    ) -> Session:
        """Move a session's head back to a snapshot of its own history, or to before the first
        turn (None); what no session reaches any more is let go.

        Doing it again changes nothing. Raises NotFound for what is not in its history, LeaseLost,
        HeadMoved; after StoreUnavailable it may or may not have happened.
        """
        session = await self._sessions.get(session_id, tenant=tenant)
        moved = await self._histories.rewind(session, snapshot_id, lease=lease)
        await self._quotas.mirror(session.body.tenant, [lineage_of(session_id)])
        return moved

    async def session(self, session_id: str, *, tenant: str | None = None) -> Session:
        """Raises NotFound, InvalidId, VaultLocked."""
        return await self._sessions.get(session_id, tenant=tenant)

    async def delete_session(self, session_id: str, *, tenant: str | None = None) -> None:
        """Drop a session and everything that no other session reaches. Raises NotFound.

        What an encrypted tenant stored in it is shredded with it: no copy can be read any more.
        One whose record is lost or unreadable goes too: its lineage is counted anew.
        """
        try:
            await self._sessions.delete(session_id, tenant=tenant)
        except ForeignTenant:
            raise
        except (NotFound, CorruptObject):
            listing = await integrity.forget_lost(
                self._control, self._prefix, session_id, tenant=tenant
            )
            if listing is None:
                raise
            for one in listing:
                await self._quotas.mirror(one, [lineage_of(session_id)])

    # ---- snapshots ----------------------------------------------------------

    async def snapshot(self, snapshot_id: str, *, tenant: str | None = None) -> Snapshot:
        """Raises NotFound, InvalidId, VaultLocked."""
        await self._sessions.check_tenant(snapshot_id, tenant)
        return await self._snapshots.get(snapshot_id)

    async def ancestors(
        self,
        snapshot_id: str,
        *,
        beyond: int | None = None,
        most: int | None = None,
        tenant: str | None = None,
    ) -> list[Snapshot]:
        """The history that ends in `snapshot_id`, root first. Raises NotFound, InvalidId,
        VaultLocked.

        beyond: only the snapshots of more than so many tokens are read
        most: only the last so many are read
        """
        await self._sessions.check_tenant(snapshot_id, tenant)
        return await self._snapshots.ancestors(snapshot_id, beyond, most)

    async def place(self, session_id: str, tokens: int, *, tenant: str | None = None) -> Place:
        """Where in a session's history so many tokens end; in a logarithmic number of steps.

        Raises NotFound, VaultLocked.
        """
        session = await self._sessions.get(session_id, tenant=tenant)
        return await self._histories.place(session.head, tokens)

    async def new_tokens(self, snapshots: Sequence[Snapshot]) -> list[array[int]]:
        """The token ids that each of `snapshots`, of one lineage, added to its history: uint32[n].
        Raises as `tokens`."""
        return [array("I", log) for log in await self._snapshots.token_logs(snapshots)]

    async def tokens(self, snapshot_id: str, *, tenant: str | None = None) -> array[int]:
        """All token ids of the history that ends in `snapshot_id`: uint32[total_tokens].

        Raises NotFound, InvalidId, CorruptObject, VaultLocked.
        """
        await self._sessions.check_tenant(snapshot_id, tenant)
        return await self._snapshots.tokens(snapshot_id)

    async def diff(self, left: str, right: str, *, tenant: str | None = None) -> Diff:
        """Where two histories part. Each ends in a snapshot or in the head of a session.

        Reads what comes after their last common snapshot, and compares tokens up to the first
        difference. Raises NotFound, InvalidId, CorruptObject.
        """
        for one in (left, right):
            await self._sessions.check_tenant(one, tenant)
        return await self._histories.diff(left, right)

    async def tree(self, any_id: str, *, tenant: str | None = None) -> Tree:
        """All sessions and snapshots of the lineage of a session or snapshot.

        Raises NotFound, InvalidId.
        """
        await self._sessions.check_tenant(any_id, tenant)
        return await self._histories.tree(lineage_of(any_id))

    async def page_of_tree(
        self,
        any_id: str,
        *,
        limit: int,
        after: Listed | None = None,
        tenant: str | None = None,
    ) -> TreePage:
        """At most `limit` sessions and snapshots of the lineage of a session or snapshot, the
        newest first, from after a place on: as much is read as is shown, whatever the tree has.

        What is made meanwhile is before the first page, and heads are where they are now.
        Raises NotFound, InvalidId, InvalidArgument, VaultLocked.
        """
        await self._sessions.owner_of(any_id, tenant=tenant)
        return await self._histories.page_of_tree(lineage_of(any_id), limit=limit, after=after)

    async def stored_boundaries(
        self, fingerprint: Fingerprint, ranks: int, page_hashes: Sequence[str]
    ) -> tuple[int, ...]:
        """After which counts of leading pages, ascending, a session could be resumed: all pages up
        to there and the state at their end are in Redis, on every rank.

        A quick look; a load checks every page and every byte.
        """
        return await self._snapshots.stored_boundaries(fingerprint, ranks, page_hashes)

    async def check_integrity(self, *, repair: bool = False) -> Report:
        """Walk everything and prove counts, reachability, pins and checksums, of what is archived
        too if the archive is open here; see `Report`.

        repair: mend what can be mended without letting go of anything alive; the report is on
        what is left. Safe at any time, from any process.
        """
        return await integrity.check_integrity(
            self._control, self._prefix, archive=self._archiving.archive, mend=repair
        )

    async def watch(self, level: str) -> Servers:
        """Who holds the data now: for `confirm`, to be called before the writes that it is to
        speak of. Raises InvalidDurability."""
        return await durability.watch(self._control, level)

    async def confirm(self, level: str, *, since: Servers | None = None) -> str:
        """Make everything that was acknowledged so far, and after `since`, durable.

        Without `since` it speaks of what the servers have now: what one of them lost before, in a
        failover or a restart, is not missed. Raises DurabilityNotReached, and ServersChanged when
        what was written after `since` may be lost; InvalidDurability.
        """
        return await durability.confirm(self._control, self._prefix, level, since=since)

    async def recover(self, *, older_than: float) -> Recovered:
        """Finish what crashed processes left behind: commits begun over `older_than` s ago,
        unwinding, deletions of tenants, labels that are listed and not written, and what moves to
        the archive and back left in it, if it is open here.
        Safe at any time, from any process."""
        async with self._control.guard() as client:
            lineages = await client.smembers(f"{self._prefix}:lineages")
        removed = 0
        listed = []
        for raw in sorted(lineages):
            with going_on_without(f"lineage {raw!r}"):
                listed.append(raw.decode())
        for lineage in await garbage.unfinished(self._control, self._prefix, listed):
            with going_on_without(f"lineage {lineage}"):
                removed += await garbage.recover(
                    self._control, self._prefix, lineage, older_than=older_than
                )
        with going_on_without("tenants that were deleted"):
            await erasure.recover(
                self._control, self._prefix, self._tenants, self._sessions, self.unfinished
            )
        await self._labels.recover(older_than=older_than)
        await self._quotas.recover()
        collected = await self._archiving.collect()
        if collected.waiting and self._archiving.archive is None:
            logger.warning(
                "%d archived generations are not needed any more and wait until a process that "
                "has the archive open recovers", collected.waiting,
            )  # fmt: skip
        return Recovered(removed, collected)

    # ---- engines ------------------------------------------------------------

    async def engines(self) -> list[dict[str, Any]]:
        """Records of the engines with a live heartbeat."""
        return await self._commands.engines()

    async def send_command(
        self,
        address: str,
        ranks: int,
        name: str,
        payload: Mapping[str, Any],
        *,
        timeout: float,
    ) -> list[dict[str, Any]]:
        """Have every rank that listens at `address` run a command; their answers by rank.

        Raises EngineSilent when one does not answer within `timeout` s, EngineFailed when one
        reports an error.
        """
        return await self._commands.send(address, ranks, name, payload, timeout=timeout)


__all__: Sequence[str] = (
    "Commit", "Diff", "Exported", "Lease", "Place", "Recovered", "Session", "Snapshot",
    "SnapshotDraft", "StateStore", "Tree",
)  # fmt: skip
