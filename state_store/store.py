"""The state store: sessions, snapshots and leases over one Redis-compatible server.

    async with await StateStore.connect("unix:///run/valkey.sock") as store:
        session = await store.create_session(tenant="default", fingerprint=fingerprint)
        lease = await store.acquire(session.id, ttl=30, owner="me")
        commit = await store.commit(draft, lease=lease, durability="fsync")
        branch = await store.fork(session.id)

Payloads do not pass through here: engines write and read them with `ObjectClient`.
"""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from state_store import commit as committing
from state_store import durability, garbage, integrity, registry
from state_store.connection import Control
from state_store.errors import LeaseHeld, LeaseLost, NotFound, UnknownFingerprint
from state_store.fingerprint import Fingerprint
from state_store.integrity import Report
from state_store.layout import (
    LineageKeys,
    ObjectNames,
    lineage_of,
    new_lineage,
    new_session_id,
)
from state_store.records import (
    Commit,
    Lease,
    Session,
    SessionBody,
    Snapshot,
    SnapshotDraft,
    Tenant,
)

_WALK = 256  # snapshots that one step of a walk towards the root reads
_UNMADE = 60  # seconds after which a listed session without a record is not about to be made


class StateStore:
    """One store. Every method raises StoreUnavailable when it does not answer."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants: dict[str, Tenant] = {}
        self._fingerprints: dict[str, Fingerprint] = {}

    @classmethod
    async def connect(cls, url: str, *, prefix: str = "torpor", timeout: float = 10.0) -> Self:
        """Open the store at a redis://, rediss:// or unix:// URL and check that it answers.

        timeout: seconds that any one command may take.
        """
        control = Control(url, timeout=timeout)
        try:
            async with control.guard() as client:
                await client.ping()
        except BaseException:
            await control.close()
            raise
        return cls(control, prefix)

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
        lineage = new_lineage()
        body = SessionBody(
            id=new_session_id(lineage),
            tenant=tenant,
            fingerprint_id=fingerprint.id,
            labels=dict(labels or {}),
            meta=dict(meta or {}),
            forked_from=None,
            created_at=time.time(),
        )
        async with self._control.guard() as client:
            await client.set(
                f"{self._prefix}:fingerprint:{fingerprint.id}", fingerprint.model_dump_json()
            )
        return await self._add_session(body, head=None)

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
        parent = await self.session(session_id)
        head = snapshot_id or parent.head
        lineage = lineage_of(session_id)
        if head is not None and lineage_of(head) != lineage:
            raise NotFound(f"snapshot {head} is not in the history of {session_id}.")
        body = parent.body.model_copy(
            update={
                "id": new_session_id(lineage),
                "labels": dict(labels or {}),
                "meta": dict(parent.body.meta if meta is None else meta),
                "forked_from": session_id,
                "created_at": time.time(),
            }
        )
        return await self._add_session(body, head=head)

    async def session(self, session_id: str) -> Session:
        """Raises NotFound, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        async with self._control.guard() as client:
            stored, head = await client.hmget(keys.session(session_id), "body", "head")
        if stored is None:
            raise NotFound(f"no session {session_id}.")
        return Session(SessionBody.unpack(stored), head.decode() or None)

    async def sessions(self, tenant: str) -> list[Session]:
        """All sessions of a tenant, newest first."""
        async with self._control.guard() as client:
            listed = await client.zrevrange(self._sessions_key(tenant), 0, -1, withscores=True)
            pipeline = client.pipeline(transaction=False)
            for raw, _ in listed:
                keys = LineageKeys(self._prefix, lineage_of(raw.decode()))
                pipeline.hmget(keys.session(raw.decode()), "body", "head")
            rows = await pipeline.execute() if listed else []
            unmade = [
                raw
                for (raw, created_at), (stored, _) in zip(listed, rows, strict=True)
                if stored is None and created_at < time.time() - _UNMADE
            ]
            if unmade:
                await client.zrem(self._sessions_key(tenant), *unmade)
        return [
            Session(SessionBody.unpack(stored), head.decode() or None)
            for stored, head in rows
            if stored is not None
        ]

    async def delete_session(self, session_id: str) -> None:
        """Drop a session and everything that no other session reaches. Raises NotFound."""
        session = await self.session(session_id)
        lineage = lineage_of(session_id)
        keys = LineageKeys(self._prefix, lineage)
        await self._control.run(
            "delete",
            [
                keys.session(session_id),
                keys.lease(session_id),
                keys.refs,
                keys.dead,
                keys.sessions,
            ],
            session_id,
        )
        async with self._control.guard() as client:
            await client.zrem(self._sessions_key(session.body.tenant), session_id)
        await garbage.unwind(self._control, self._prefix, lineage)

    async def tenant(self, name: str) -> Tenant:
        """The tenant's record; its salt is made at first use."""
        known = self._tenants.get(name)
        if known is None:
            key = f"{self._prefix}:tenant:{name}"
            fresh = Tenant(name=name, salt=secrets.token_hex(16))
            async with self._control.guard() as client:
                await client.set(key, fresh.pack(), nx=True)
                stored = await client.get(key)
            known = self._tenants[name] = Tenant.unpack(stored)
        return known

    # ---- leases -------------------------------------------------------------

    async def acquire(self, session_id: str, *, ttl: float, owner: str) -> Lease:
        """Become the one writer of a session for `ttl` s. Raises LeaseHeld, NotFound."""
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        nonce = secrets.token_hex(8)
        outcome, detail = await self._control.run(
            "acquire",
            [keys.session(session_id), keys.lease(session_id), keys.fence],
            owner,
            int(ttl * 1000),
            nonce,
        )
        if outcome == b"no_session":
            raise NotFound(f"no session {session_id}.")
        if outcome == b"held":
            raise LeaseHeld(
                f"{session_id} is being written by {detail.decode()}; wait for it to "
                f"finish. If it died, its lease expires within {ttl:g} s."
            )
        return Lease(session_id, owner, int(detail), nonce)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Raises LeaseLost."""
        await self._set_lease(lease, int(ttl * 1000))

    async def release(self, lease: Lease) -> None:
        """Give the lease back; one that is lost already is no error."""
        try:
            await self._set_lease(lease, 0)
        except LeaseLost:
            return

    # ---- snapshots ----------------------------------------------------------

    async def commit(self, draft: SnapshotDraft, *, lease: Lease, durability: str) -> Commit:
        """Commit a turn: the new snapshot becomes the session's head, or nothing changes.

        Raises LeaseLost, HeadMoved, ObjectsMissing, NotFound, UnknownFingerprint,
        InvalidDurability; after
        StoreUnavailable the commit may or may not have happened: read the head again.
        """
        fingerprint = await self.fingerprint(draft.fingerprint_id)
        return await committing.commit(
            self._control, self._prefix, draft, fingerprint, lease, durability
        )

    async def fingerprint(self, fingerprint_id: str) -> Fingerprint:
        """Raises UnknownFingerprint."""
        known = self._fingerprints.get(fingerprint_id)
        if known is None:
            async with self._control.guard() as client:
                stored = await client.get(f"{self._prefix}:fingerprint:{fingerprint_id}")
            if stored is None:
                raise UnknownFingerprint(
                    f"no state format {fingerprint_id} is known; create a session with it first."
                )
            known = self._fingerprints[fingerprint_id] = Fingerprint.model_validate_json(stored)
        return known

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        async with self._control.guard() as client:
            stored = await client.hget(keys.snapshot(snapshot_id), "body")
        if stored is None:
            raise NotFound(f"no snapshot {snapshot_id}.")
        return Snapshot.unpack(stored)

    async def ancestors(self, snapshot_id: str) -> list[Snapshot]:
        """The history that ends in `snapshot_id`, root first. Raises NotFound, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        found: list[Snapshot] = []
        next_id: str | None = snapshot_id
        while next_id is not None:
            rows = await self._control.run(
                "ancestors", [keys.snapshot(next_id)], keys.snapshot_prefix, next_id, _WALK
            )
            if not rows:
                raise NotFound(f"no snapshot {next_id}.")
            found += [Snapshot.unpack(body) for body in rows[1::2]]
            next_id = found[-1].parent
        return found[::-1]

    async def tokens(self, snapshot_id: str) -> array[int]:
        """All token ids of the history that ends in `snapshot_id`: uint32[total_tokens]."""
        history = await self.ancestors(snapshot_id)
        keys = LineageKeys(self._prefix, lineage_of(snapshot_id))
        async with self._control.guard() as client:
            deltas = await client.mget([keys.tokens(snapshot.id) for snapshot in history])
        tokens = array("I")
        for snapshot, delta in zip(history, deltas, strict=True):
            if delta is None:
                raise NotFound(f"the token log of snapshot {snapshot.id} is missing.")
            tokens.frombytes(delta)
        return tokens

    async def boundary_is_stored(self, snapshot_id: str) -> bool:
        """Whether the state at the snapshot's boundary is there, on every rank.

        A quick look for showing residency; a load checks every page and every byte.
        """
        snapshot = await self.snapshot(snapshot_id)
        if snapshot.boundary_hash is None:
            return False
        keys = [
            ObjectNames(self._prefix, snapshot.fingerprint_id, rank).key(ref)
            for ref in snapshot.refs("state", [snapshot.boundary_hash])
            for rank in range(snapshot.ranks)
        ]
        async with self._control.guard() as client:
            return bool(await client.exists(*keys) == len(keys))

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

    # ---- helpers ------------------------------------------------------------

    def _sessions_key(self, tenant: str) -> str:
        return f"{self._prefix}:sessions:{tenant}"

    async def _add_session(self, body: SessionBody, head: str | None) -> Session:
        """Listed first and then made: after a crash between the two nothing holds a snapshot that
        no list shows. Listing the lineage again undoes a `recover` that found it empty meanwhile.
        """
        lineage = lineage_of(body.id)
        keys = LineageKeys(self._prefix, lineage)
        async with self._control.guard() as client:
            await client.sadd(f"{self._prefix}:lineages", lineage)
            await client.zadd(self._sessions_key(body.tenant), {body.id: body.created_at})
        outcome = await self._control.run(
            "fork",
            [keys.snapshot(head or ""), keys.refs, keys.session(body.id), keys.sessions],
            head or "",
            body.id,
            body.pack(),
        )
        async with self._control.guard() as client:
            if outcome != b"ok":
                await client.zrem(self._sessions_key(body.tenant), body.id)
                raise NotFound(f"no snapshot {head}.")
            await client.sadd(f"{self._prefix}:lineages", lineage)
        return Session(body, head)

    async def _set_lease(self, lease: Lease, milliseconds: int) -> None:
        keys = LineageKeys(self._prefix, lineage_of(lease.session_id))
        outcome = await self._control.run(
            "renew", [keys.lease(lease.session_id)], lease.token, milliseconds
        )
        if outcome != b"ok":
            raise LeaseLost(f"the lease on {lease.session_id} expired or was taken over.")


__all__: Sequence[str] = (
    "Commit", "Lease", "Session", "Snapshot", "SnapshotDraft", "StateStore",
)  # fmt: skip
