"""One pass of moving sessions out of Redis, by a policy.

Sessions are taken from each tenant's list of last uses. One whose bytes have all left is taken
off that list, and is on it again when it is next used: a sweep costs what there is to move.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol

from state_store.archive.archivist import Archivist
from state_store.archive.clock import read_clock
from state_store.archive.moved import Moved
from state_store.archive.policy import ArchivePolicy
from state_store.archive.targets import Target, look, targets_of
from state_store.connection import Control
from state_store.errors import (
    CorruptObject,
    InvalidId,
    InvalidPolicy,
    InvalidTenant,
    LeaseHeld,
    NotFound,
    StoreError,
)
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.records import Snapshot

Reason = Literal["idle", "quota", "memory"]

_CLAIM = 600  # seconds that a sweeper which died keeps others from a session
_BATCH = 256  # objects looked at in one round trip
_LISTED = 1000  # sessions of one tenant that one sweep moves at most, the idlest
_DAMAGED = (CorruptObject, InvalidId)

logger = logging.getLogger(__name__)


class Histories(Protocol):
    """The part of `snapshots.Snapshots` that a sweep reads: histories without their meta."""

    async def records(self, snapshot_id: str) -> list[Snapshot]: ...


@dataclass(frozen=True)
class Swept:
    """One session, and why it was moved."""

    session_id: str
    tenant: str
    reason: Reason
    moved: Moved


@dataclass
class SweepReport:
    """sessions: in the order in which they were moved; claimed: left to another sweeper;
    problems: what kept sessions, or all of a tenant's, from being moved, with their names;
    collected: generations that nothing holds any more and that were deleted from the archive"""

    sessions: list[Swept] = field(default_factory=list)
    claimed: int = 0
    problems: list[str] = field(default_factory=list)
    collected: int = 0

    @property
    def objects(self) -> int:
        return sum(swept.moved.objects for swept in self.sessions)

    @property
    def bytes(self) -> int:
        return sum(swept.moved.bytes for swept in self.sessions)


@dataclass(frozen=True)
class _Idler:
    used: float  # unix time
    tenant: str
    session_id: str


async def sweep(
    control: Control, prefix: str, histories: Histories, archivist: Archivist, policy: ArchivePolicy
) -> SweepReport:
    """Move sessions out, the idlest first, for as long as the policy gives a reason.

    A session that is leased, and what another session of its lineage has in use, stays. Any
    number of processes may sweep at the same time. One that cannot be read, or whose kin cannot,
    stays too, and is in the report. Raises as `Archivist.move_out`; then the sessions before are
    moved. Raises InvalidPolicy for a fraction of a `maxmemory` that is not set.
    """
    return await _Sweep(control, prefix, histories, archivist, policy).run()


async def move_session_out(
    control: Control,
    prefix: str,
    histories: Histories,
    archivist: Archivist,
    session_id: str,
    *,
    tenant: str,
    spare: float,
) -> Moved:
    """Move one session out, used or not, but for what other sessions of its lineage that were
    used within `spare` s hold. Raises LeaseHeld while it is being written, and as `sweep`."""
    policy = ArchivePolicy(spare=spare)
    return await _Sweep(control, prefix, histories, archivist, policy).move_one(session_id, tenant)


class _Sweep:
    def __init__(
        self,
        control: Control,
        prefix: str,
        histories: Histories,
        archivist: Archivist,
        policy: ArchivePolicy,
    ) -> None:
        self._control = control
        self._prefix = prefix
        self._histories = histories
        self._archivist = archivist
        self._policy = policy
        self._report = SweepReport()
        self._now = 0.0
        self._used: dict[str, dict[str, float]] = {}  # tenant -> session id -> last use
        self._resident: dict[str, int] = {}  # tenant -> bytes in Redis, for those over quota

    async def run(self) -> SweepReport:
        self._now = (await read_clock(self._control, self._prefix)).now
        idlers = await self._list()
        excess = await self._excess_memory()
        if self._policy.tenant_quota_bytes is not None:
            for tenant in self._used:
                self._resident[tenant] = await self._tenant_bytes(tenant)
        for idler in sorted(idlers, key=lambda one: one.used):
            reason = self._reason(idler, excess - self._report.bytes)
            if reason is None:
                continue
            try:
                await self._claim_and_move(idler, reason)
            except _DAMAGED as error:
                self._leave(idler.session_id, error)
        return self._report

    async def move_one(self, session_id: str, tenant: str) -> Moved:
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        async with self._control.guard() as client:
            if await client.exists(keys.lease(session_id)):
                raise LeaseHeld(
                    f"{session_id} is being written; nothing was moved. Archive it afterwards."
                )
        self._now = (await read_clock(self._control, self._prefix)).now
        used = (await self._load_uses(tenant)).get(session_id, 0.0)
        idler = _Idler(used, tenant, session_id)
        return await self._move(idler, own_idle=0.0, kins_idle=self._policy.spare)

    def _reason(self, idler: _Idler, excess: float) -> Reason | None:
        policy = self._policy
        if policy.idle is not None and self._now - idler.used >= policy.idle:
            return "idle"
        quota = policy.tenant_quota_bytes
        if quota is not None and self._resident[idler.tenant] > quota:
            return "quota"
        return "memory" if excess > 0 else None

    async def _list(self) -> list[_Idler]:
        """The idlest sessions of every tenant that were not used just now."""
        start, end = f"{self._prefix}:{{tenant:", "}:used"
        tenants: set[str] = set()
        async for keys in self._control.scan(f"{start}*{end}"):
            tenants.update(key.decode().removeprefix(start).removesuffix(end) for key in keys)
        found: list[_Idler] = []
        for tenant in sorted(tenants):
            try:
                listed = await self._load_uses(tenant)
            except InvalidTenant as error:
                self._leave(f"tenant {tenant}", error)
                continue
            found += [
                _Idler(used, tenant, session_id)
                for session_id, used in islice(listed.items(), _LISTED)
                if self._now - used >= self._policy.spare
            ]
        return found

    async def _load_uses(self, tenant: str) -> dict[str, float]:
        """Last uses by session id, the idlest first."""
        key = TenantKeys(self._prefix, tenant).used
        async with self._control.guard() as client:
            listed = await client.zrange(key, 0, -1, withscores=True)
        self._used[tenant] = {raw.decode(): used for raw, used in listed}
        return self._used[tenant]

    async def _excess_memory(self) -> float:
        """Bytes to move so that Redis is below the low watermark; 0 if it is not over the high."""
        high, low = self._policy.memory_high, self._policy.memory_low
        if high is None or low is None:
            return 0
        used, limit = await self._memory()
        if isinstance(high, float):
            if limit == 0:
                raise InvalidPolicy(
                    "memory_high is a fraction of `maxmemory`, which the server has not set; set "
                    "it, or give memory_high and memory_low in bytes."
                )
            high, low = high * limit, low * limit
        return used - low if used > high else 0

    async def _memory(self) -> tuple[int, int]:
        """Bytes used and allowed (0: without limit), over all masters."""
        infos = await self._control.on_masters(lambda master: master.exchange([("INFO", "memory")]))
        return sum(i["used_memory"] for (i,) in infos), sum(i["maxmemory"] for (i,) in infos)

    async def _tenant_bytes(self, tenant: str) -> int:
        """Bytes of the objects and contents of files in Redis that a tenant's sessions hold, each
        counted once."""
        seen: set[bytes] = set()
        files: dict[str, set[str]] = {}  # by lineage
        total = 0
        for session_id in self._used[tenant]:
            try:
                history = await self._history(session_id)
            except _DAMAGED:  # it is told of when it is to be moved
                continue
            new = [t for t in targets_of(self._prefix, history) if t.pins not in seen]
            seen.update(target.pins for target in new)
            total += await self._resident_bytes(new)
            counted = files.setdefault(lineage_of(session_id), set())
            total += await self._archivist.files.resident_bytes(history, counted)
        return total

    async def _resident_bytes(self, targets: Iterable[Target]) -> int:
        """As on the device: asking for their stored sizes would make the objects look used."""
        total = 0
        for batch in _batches(targets):
            for target, found in zip(batch, await look(self._control, batch), strict=True):
                total += found.present * target.decoded_bytes
        return total

    def _leave(self, name: str, error: StoreError) -> None:
        """One that is damaged keeps nobody from the others."""
        logger.error("nothing of %s was moved to the archive: %s", name, error)
        self._report.problems.append(f"{name}: {error}")

    async def _claim_and_move(self, idler: _Idler, reason: Reason) -> None:
        keys = LineageKeys(self._prefix, lineage_of(idler.session_id))
        claim, nonce = f"{keys.lease(idler.session_id)}:sweep", secrets.token_hex(8)
        async with self._control.guard() as client:
            if await client.exists(keys.lease(idler.session_id)):
                return
        if not await self._control.run("claim", [claim], nonce, _CLAIM * 1000):
            self._report.claimed += 1
            return
        try:
            idle = self._policy.idle if reason == "idle" and self._policy.idle else None
            idle = self._policy.spare if idle is None else idle
            moved = await self._move(idler, own_idle=idle, kins_idle=idle)
        finally:
            await self._control.run("claim", [claim], nonce, 0)
        self._report.sessions.append(Swept(idler.session_id, idler.tenant, reason, moved))

    async def _move(self, idler: _Idler, *, own_idle: float, kins_idle: float) -> Moved:
        """Move what nobody read within `own_idle` s and no kin used within `kins_idle` s holds."""
        history = await self._history(idler.session_id)
        in_use = await self._in_use(idler, kins_idle)
        free = [snapshot for snapshot in history if snapshot.id not in in_use]
        targets = list(targets_of(self._prefix, free)) if idler.tenant in self._resident else []
        before = await self._resident_bytes(targets)
        moved = await self._archivist.move_out(free, idle=own_idle)
        if targets:
            self._resident[idler.tenant] -= before - await self._resident_bytes(targets)
        files = await self._archivist.files.move_out(history, but=in_use.values())
        if idler.tenant in self._resident:
            self._resident[idler.tenant] -= files.bytes
        moved.add(files)
        moved.busy += sum(len(snapshot.objects) for snapshot in history if snapshot.id in in_use)
        if not moved.busy and not moved.left:
            used = TenantKeys(self._prefix, idler.tenant).used
            await self._control.run("shelve", [used], idler.session_id, repr(idler.used))
        return moved

    async def _in_use(self, idler: _Idler, idle: float) -> dict[str, Snapshot]:
        """By their ids, snapshots that sessions of the same lineage used within `idle` s reach."""
        keys = LineageKeys(self._prefix, lineage_of(idler.session_id))
        async with self._control.guard() as client:
            kin = {raw.decode() for raw in await client.smembers(keys.sessions)}
        kin.discard(idler.session_id)
        used = self._used[idler.tenant]
        reached: dict[str, Snapshot] = {}
        for session_id in kin:
            async with self._control.guard() as client:
                leased = await client.exists(keys.lease(session_id))
            if leased or self._now - used.get(session_id, 0.0) < idle:
                reached.update({one.id: one for one in await self._history(session_id)})
        return reached

    async def _history(self, session_id: str) -> list[Snapshot]:
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        async with self._control.guard() as client:
            head = await client.hget(keys.session(session_id), "head")
        if not head:
            return []
        try:
            return await self._histories.records(head.decode())
        except NotFound:  # deleted meanwhile
            return []


def _batches(targets: Iterable[Target]) -> Iterator[list[Target]]:
    rest = iter(targets)
    while batch := list(islice(rest, _BATCH)):
        yield batch


__all__: Sequence[str] = ("Reason", "SweepReport", "Swept", "move_session_out", "sweep")
