"""The state store: sessions, snapshots and leases over one Redis-compatible server.

    async with await StateStore.connect("unix:///run/valkey.sock") as store:
        session = await store.create_session(tenant="default", fingerprint=fingerprint)
        lease = await store.acquire(session.id, ttl=30, owner="me")
        commit = await store.commit(draft, lease=lease, durability="fsync")
        branch = await store.fork(session.id)

Payloads do not pass through here: engines write and read them with `ObjectClient`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from state_store import commit as committing
from state_store import durability, garbage, integrity, registry
from state_store.connection import Control
from state_store.fingerprint import Fingerprint
from state_store.fingerprints import Fingerprints
from state_store.integrity import Report
from state_store.leases import Leases
from state_store.records import (
    Commit,
    Lease,
    Session,
    Snapshot,
    SnapshotDraft,
    Tenant,
)
from state_store.sessions import Sessions
from state_store.snapshots import Snapshots
from state_store.tenants import Tenants


class StateStore:
    """One store. Every method raises StoreUnavailable when it does not answer."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants = Tenants(control, prefix)
        self._fingerprints = Fingerprints(control, prefix)
        self._sessions = Sessions(control, prefix)
        self._leases = Leases(control, prefix)
        self._snapshots = Snapshots(control, prefix)

    @classmethod
    async def connect(cls, url: str, *, prefix: str = "torpor", timeout: float = 10.0) -> Self:
        """Open the store at a URL (see `address`) and check that it answers.

        timeout: seconds that any one command may take.
        """
        return cls(await Control.connect(url, timeout=timeout), prefix)

    async def close(self) -> None:
        await self._control.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- sessions -----------------------------------------------------------

    async def create_session(
        self,
        *,
        tenant: str,
        fingerprint: Fingerprint,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Session:
        """A new, empty session, the root of a new lineage."""
        return await self._sessions.create(
            tenant=tenant, fingerprint=fingerprint, labels=labels, meta=meta
        )

    async def fork(
        self,
        session_id: str,
        *,
        snapshot_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Session:
        """A new session whose head is `snapshot_id` (the session's head if None).

        Copies nothing and costs the same at any length. Raises NotFound.
        """
        return await self._sessions.fork(
            session_id, snapshot_id=snapshot_id, labels=labels, meta=meta
        )

    async def session(self, session_id: str) -> Session:
        """Raises NotFound, InvalidId."""
        return await self._sessions.get(session_id)

    async def sessions(self, tenant: str) -> list[Session]:
        """All sessions of a tenant, newest first."""
        return await self._sessions.of_tenant(tenant)

    async def delete_session(self, session_id: str) -> None:
        """Drop a session and everything that no other session reaches. Raises NotFound."""
        await self._sessions.delete(session_id)

    async def tenant(self, name: str) -> Tenant:
        """The tenant's record; its salt is made at first use."""
        return await self._tenants.get(name)

    # ---- leases -------------------------------------------------------------

    async def acquire(self, session_id: str, *, ttl: float, owner: str) -> Lease:
        """Become the one writer of a session for `ttl` s. Raises LeaseHeld, NotFound."""
        return await self._leases.acquire(session_id, ttl=ttl, owner=owner)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Raises LeaseLost."""
        await self._leases.renew(lease, ttl=ttl)

    async def release(self, lease: Lease) -> None:
        """Give the lease back; one that is lost already is no error."""
        await self._leases.release(lease)

    # ---- snapshots ----------------------------------------------------------

    async def commit(self, draft: SnapshotDraft, *, lease: Lease, durability: str) -> Commit:
        """Commit a turn: the new snapshot becomes the session's head, or nothing changes.

        Raises InvalidDraft, LeaseLost, HeadMoved, ObjectsMissing, NotFound, UnknownFingerprint,
        InvalidDurability; after StoreUnavailable the commit may or may not have happened: read
        the head again.
        """
        fingerprint = await self.fingerprint(draft.fingerprint_id)
        return await committing.commit(
            self._control, self._prefix, draft, fingerprint, lease, durability
        )

    async def fingerprint(self, fingerprint_id: str) -> Fingerprint:
        """Raises UnknownFingerprint."""
        return await self._fingerprints.get(fingerprint_id)

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound, InvalidId."""
        return await self._snapshots.get(snapshot_id)

    async def ancestors(self, snapshot_id: str) -> list[Snapshot]:
        """The history that ends in `snapshot_id`, root first. Raises NotFound, InvalidId."""
        return await self._snapshots.ancestors(snapshot_id)

    async def tokens(self, snapshot_id: str) -> array[int]:
        """All token ids of the history that ends in `snapshot_id`: uint32[total_tokens]."""
        return await self._snapshots.tokens(snapshot_id)

    async def boundary_is_stored(self, snapshot_id: str) -> bool:
        """Whether the state at the snapshot's boundary is there, on every rank.

        A quick look for showing residency; a load checks every page and every byte.
        """
        return await self._snapshots.boundary_is_stored(snapshot_id)

    async def check_integrity(self) -> Report:
        """Walk everything and prove counts, reachability, pins and checksums; see `Report`."""
        return await integrity.check_integrity(self._control, self._prefix)

    async def confirm(self, level: str) -> str:
        """Make everything acknowledged so far durable. Raises DurabilityNotReached."""
        return await durability.confirm(self._control, self._prefix, level)

    async def recover(self, *, older_than: float) -> int:
        """Finish what crashed writers left behind: commits begun over `older_than` s ago, and
        unwinding. Safe at any time, from any process. Returns the snapshots removed."""
        async with self._control.guard() as client:
            lineages = await client.smembers(f"{self._prefix}:lineages")
        removed = 0
        for lineage in sorted(raw.decode() for raw in lineages):
            removed += await garbage.recover(
                self._control, self._prefix, lineage, older_than=older_than
            )
        return removed

    # ---- engines ------------------------------------------------------------

    async def engines(self) -> list[dict[str, Any]]:
        """Records of the engines with a live heartbeat."""
        return await registry.live_engines(self._control, self._prefix)

    async def send_command(
        self,
        engine_id: str,
        ranks: int,
        name: str,
        payload: Mapping[str, Any],
        *,
        timeout: float,
    ) -> list[dict[str, Any]]:
        """Have every rank of an engine run a command; their answers by rank.

        Raises EngineSilent when one does not answer within `timeout` s or reports an error.
        """
        return await registry.send_command(
            self._control, self._prefix, engine_id, ranks, name, payload, timeout=timeout
        )


__all__: Sequence[str] = (
    "Commit", "Lease", "Session", "Snapshot", "SnapshotDraft", "StateStore",
)  # fmt: skip
