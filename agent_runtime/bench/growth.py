"""What small operations cost as sessions get longer, and as there are more of them: the store's,
the runtime's over HTTP, and the scheduler's.

Every operation is timed beside bare `SET`s on the same server in the same rounds: how fast the
machine is at the moment meets both. A curve is fitted with a power of what grows; 0 is flat.
Payloads are left out, whose cost is their bytes: `torpor bench store`.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import redis.asyncio

from agent_runtime.bench.scheduled import ScheduledTurns
from agent_runtime.bench.spread import power, quartiles
from agent_runtime.deployment import RuntimeProcess
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings
from engine.launch import free_port
from state_store.embedded import EmbeddedServer
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint
from state_store.quotas import Quota
from state_store.records import Session, SnapshotDraft
from state_store.store import StateStore

_FLAT = 0.1  # a power that counts as none: 4 % for every half of a power of ten
_NEW = 100  # tokens of a turn
_SETS = 20  # timed together
_PAGE = 10  # sessions that are listed
_AT_ONCE = 1_000_000  # tokens of a commit, at most
_TENANT: str = RuntimeSettings.model_fields["tenant"].default  # whose sessions HTTP shows
_LIMITED = "limited"  # a tenant with a quota, which it never reaches
_OWNER, _TTL = "bench", 600.0
_FINGERPRINT = Fingerprint(
    weights="none", architecture="none", tokenizer="none", kv_dtype="bfloat16",
    conv_dtype="bfloat16", ssm_dtype="float32", page_size=64, kv_payload_bytes=1024,
    state_payload_bytes=1024, kv_segments=(Segment("bfloat16", 1024),),
    state_segments=(Segment("float32", 1024),), tp_size=1, draft="none", bigram=False,
    engine="none",
)  # fmt: skip

Operation = Callable[[], Awaitable[object]]


async def measure(
    *, tokens: Sequence[int], sessions: Sequence[int], rounds: int
) -> AsyncIterator[dict[str, Any]]:
    """A record over tokens, one over sessions, and one of the goals."""
    loses = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        async with (
            await StateStore.connect(server.url) as store,
            redis.asyncio.from_url(server.url) as bare,
        ):
            with _runtime(server.url, Path(folder)) as url:
                async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                    records = [
                        await _over_sessions(store, bare, http, sessions, rounds),
                        await _over_tokens(store, bare, tokens, rounds),
                    ]
            for record in records:
                yield record
                loses += [
                    f"{name} over {record['over']}: power {power}"
                    for name, power in record["powers"].items()
                    if power > _FLAT
                ]
    yield {"bench": "growth", "measure": "goal", "met": not loses, "loses": loses}


async def _over_tokens(
    store: StateStore, bare: redis.asyncio.Redis, tokens: Sequence[int], rounds: int
) -> dict[str, Any]:
    ladder = [await _session_of(store, count) for count in tokens]
    times: list[dict[str, list[float]]] = [{} for _ in tokens]
    for number in range(rounds):
        for session, spent in zip(*_turned(ladder, times, number), strict=True):
            await _timed(_operations(store, bare, session), spent)
    return _record("tokens", tokens, times)


@contextlib.contextmanager
def _runtime(redis_url: str, folder: Path) -> Iterator[str]:
    """A runtime over the store, which asks no engine for anything: its URL."""
    process = RuntimeProcess(
        redis_url=redis_url,
        archive=None,
        model=None,
        port=free_port(),
        log_file=folder / "runtime.log",
        backend=BackendSettings(url="http://127.0.0.1:9/v1", model="none"),
    )
    with process:
        yield process.url


async def _over_sessions(
    store: StateStore,
    bare: redis.asyncio.Redis,
    http: httpx.AsyncClient,
    sessions: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    session = await _session_of(store, 1000)
    await store.set_quota(_LIMITED, Quota(bytes=1 << 50, tokens=1 << 50))
    limited = await _session_of(store, 1000, tenant=_LIMITED)
    times: list[dict[str, list[float]]] = []
    used: list[int] = []
    there, grown = 1, 0
    for count in sessions:
        before = await _used(bare)
        for _ in range(there, count):
            await _created(store)
        used.append(await _used(bare))
        grown += used[-1] - before
        for number in range(there, count):  # a quota counts them one by one, as it counts sessions
            await store.items.add(_LIMITED, str(number), [b"x"], ttl=_TTL)
        there = max(there, count)
        operations = _operations(store, bare, session) | {
            "commit_in_quota": lambda: _commit(store, limited, _NEW),
            "create": lambda: _created_and_deleted(store),
            "list_10": lambda: store.page_of_sessions(_TENANT, limit=_PAGE),
            "schedule": _scheduled(there),
            "http_read": lambda: _got(http, f"/v1/sessions/{session.id}"),
            "http_list_10": lambda: _got(http, f"/v1/sessions?limit={_PAGE}"),
        }
        spent: dict[str, list[float]] = {}
        for number in range(-1, rounds):  # the first one warms up
            await _timed(operations, spent if number >= 0 else {})
        times.append(spent)
    record = _record("sessions", sessions, times)
    record["bytes"] = {"used_memory_dataset": used}
    record["bytes_per_session"] = round(grown / max(1, there - 1))
    return record


async def _used(bare: redis.asyncio.Redis) -> int:
    return int((await bare.info("memory"))["used_memory_dataset"])


async def _got(http: httpx.AsyncClient, path: str) -> None:
    (await http.get(path)).raise_for_status()


def _scheduled(sessions: int) -> Operation:
    turns = ScheduledTurns(sessions)

    async def turn() -> None:
        turns.turn()

    return turn


def _operations(
    store: StateStore, bare: redis.asyncio.Redis, session: Session
) -> dict[str, Operation]:
    async def fork() -> None:
        made = await store.fork(session.id)
        await store.delete_session(made.id)

    async def sets() -> None:
        for _ in range(_SETS):
            await bare.set("bare", b"x")

    return {
        "set": sets,
        "read": lambda: store.session(session.id),
        "commit": lambda: _commit(store, session, _NEW),
        "fork_and_delete": fork,
    }


async def _timed(operations: Mapping[str, Operation], spent: dict[str, list[float]]) -> None:
    for name, operation in operations.items():
        started = time.perf_counter()
        await operation()
        seconds = time.perf_counter() - started
        spent.setdefault(name, []).append(seconds / _SETS if name == "set" else seconds)


async def _created(store: StateStore, tenant: str = _TENANT) -> Session:
    return await store.create_session(tenant=tenant, fingerprint=_FINGERPRINT)


async def _created_and_deleted(store: StateStore) -> None:
    await store.delete_session((await _created(store)).id)


async def _session_of(store: StateStore, tokens: int, *, tenant: str = _TENANT) -> Session:
    session = await _created(store, tenant)
    for start in range(0, tokens, _AT_ONCE):
        await _commit(store, session, min(_AT_ONCE, tokens - start))
    return session


async def _commit(store: StateStore, session: Session, tokens: int) -> None:
    """One turn of so many tokens, without payloads."""
    lease = await store.acquire(session.id, ttl=_TTL, owner=_OWNER)
    head = (await store.session(session.id)).head
    total = 0 if head is None else (await store.snapshot(head)).total_tokens
    draft = SnapshotDraft(
        session_id=session.id,
        parent=head,
        new_tokens=array("I", range(tokens)),
        total_tokens=total + tokens,
        boundary=0,
        boundary_hash=None,
        page_hashes=(),
        fingerprint_id=_FINGERPRINT.id,
        ranks=1,
    )
    await store.commit(draft, lease=lease, durability="memory")
    await store.release(lease)


def _turned(ladder: Sequence[Any], times: Sequence[Any], by: int) -> tuple[list[Any], list[Any]]:
    """Both from another place on: the first of one round is the last of the next."""
    at = by % len(ladder)
    return [*ladder[at:], *ladder[:at]], [*times[at:], *times[:at]]


def _record(
    over: str, points: Sequence[int], times: Sequence[Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    medians = [
        {name: statistics.median(seconds) for name, seconds in spent.items()} for spent in times
    ]
    names = [name for name in medians[0] if name != "set"]
    ratios = {name: [at[name] / at["set"] for at in medians] for name in names}
    full = max(0, min(len(points) - 2, sum(one < _PAGE for one in points)))  # pages, from here on
    return {
        "bench": "growth",
        "over": over,
        "points": list(points),
        "set_ms": [round(at["set"] * 1e3, 3) for at in medians],
        "ratios": {name: [round(one, 3) for one in some] for name, some in ratios.items()},
        "quartiles_ms": {
            name: [quartiles([one * 1e3 for one in at[name]], 3) for at in times] for name in names
        },
        "powers": {name: power(points[full:], some[full:]) for name, some in ratios.items()},
    }
