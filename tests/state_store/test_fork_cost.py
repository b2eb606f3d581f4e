"""A fork costs the same at a thousand tokens and at a million: in commands, bytes sent and kept."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
import redis
from writer import FINGERPRINT, TENANT

from state_store.codec import HEADER_BYTES, Frame, seal
from state_store.identity import page_hashes
from state_store.layout import LineageKeys, ObjectNames, ObjectRef, lineage_of
from state_store.objects import ObjectClient
from state_store.records import SnapshotDraft
from state_store.store import StateStore

PAGE, KV_BYTES = 64, 8192  # bytes of a page; those of real models are far larger
MODEL = FINGERPRINT.model_copy(
    update={
        "page_size": PAGE, "tp_size": 1, "kv_payload_bytes": KV_BYTES,
        "kv_segments": (FINGERPRINT.kv_segments[0].__class__("bfloat16", KV_BYTES),),
    }
)  # fmt: skip
TURN = 65536  # tokens


async def session_of(store: StateStore, client: ObjectClient, prefix: str, tokens: int) -> str:
    """A session with so many tokens, all of them stored."""
    session = await store.create_session(tenant=TENANT, fingerprint=MODEL, meta={"n": 1})
    salt = (await store.tenant(TENANT)).salt
    names = ObjectNames(prefix, MODEL.id, 0)
    ids = np.arange(tokens, dtype=np.uint32) % 50_000
    hashes = page_hashes(ids, PAGE, salt=salt, bigram=False)
    lease = await store.acquire(session.id, ttl=600, owner="writer")
    parent = None
    for start in range(0, tokens, TURN):
        end = min(start + TURN, tokens)
        pages = hashes[start // PAGE : end // PAGE]
        refs = [*(ObjectRef("kv", page) for page in pages), ObjectRef("state", pages[-1])]
        client.put([(names.key(ref), object_of(names, ref)) for ref in refs], ttl=300)
        draft = SnapshotDraft(
            session_id=session.id, parent=parent, new_tokens=array("I", ids[start:end].tolist()),
            total_tokens=end, boundary=end, boundary_hash=pages[-1], page_hashes=tuple(pages),
            fingerprint_id=MODEL.id, ranks=1,
        )  # fmt: skip
        parent = (await store.commit(draft, lease=lease, durability="memory")).snapshot.id
    await store.release(lease)
    return session.id


def object_of(names: ObjectNames, ref: ObjectRef) -> memoryview:
    size = KV_BYTES if ref.kind == "kv" else MODEL.state_payload_bytes
    whole = memoryview(bytearray(HEADER_BYTES + size))
    seal(Frame(whole[:HEADER_BYTES], whole[HEADER_BYTES:]), names=names, ref=ref)
    return whole


def traffic(raw) -> np.ndarray:
    """Commands, bytes in and bytes out of the server so far."""
    stats = raw.info("stats")
    return np.array(
        [
            stats["total_commands_processed"],
            stats["total_net_input_bytes"],
            stats["total_net_output_bytes"],
        ]
    )


def control_bytes(raw) -> int:
    """Memory of everything but pages, states and their pins."""
    keys = [key for key in raw.keys("p:*") if key.split(b":")[1] not in (b"kv", b"state", b"pins")]
    return sum(raw.memory_usage(key, samples=0) for key in keys)


@pytest.mark.slow
async def test_a_fork_costs_the_same_at_a_thousand_tokens_and_at_a_million(own_server):
    client = ObjectClient(own_server.url, timeout=30.0)
    async with await StateStore.connect(own_server.url, prefix="p", timeout=60.0) as store:
        with redis.Redis.from_url(own_server.url) as raw:
            short = await session_of(store, client, "p", 1024)
            long = await session_of(store, client, "p", 1 << 20)
            costs = []
            for session_id in (short, long):
                await store.fork(session_id)  # the server knows the script from here on
                before = traffic(raw)
                await store.fork(session_id)
                costs.append(traffic(raw) - before)
            assert costs[0][0] == costs[1][0]
            # Times are written with as many digits as they have.
            assert np.abs(costs[0] - costs[1]).max() < 32
            objects = {key for kind in ("kv", "state") for key in raw.keys(f"p:{kind}:*")}
            stored = sum(raw.strlen(key) for key in objects)
            assert stored > 128 << 20
            before_forks = control_bytes(raw)
            for _ in range(100):
                await store.fork(long)
            assert control_bytes(raw) - before_forks < stored / 1000
            assert {key for kind in ("kv", "state") for key in raw.keys(f"p:{kind}:*")} == objects
    client.close()


async def turns_of_two(store: StateStore, count: int) -> tuple[str, list[str]]:
    """A session of so many turns of two tokens each, without state, and its snapshots."""
    session = await store.create_session(tenant=TENANT, fingerprint=MODEL)
    lease = await store.acquire(session.id, ttl=600, owner="writer")
    made: list[str] = []
    for number in range(count):
        draft = SnapshotDraft(
            session_id=session.id, parent=made[-1] if made else None,
            new_tokens=array("I", [number, number]), total_tokens=2 * number + 2, boundary=0,
            boundary_hash=None, page_hashes=(), fingerprint_id=MODEL.id, ranks=1,
        )  # fmt: skip
        made.append((await store.commit(draft, lease=lease, durability="memory")).snapshot.id)
    await store.release(lease)
    return session.id, made


async def test_a_place_anywhere_in_a_long_history_is_found_in_few_steps(own_server):
    turns = 600
    async with await StateStore.connect(own_server.url, prefix="p", timeout=60.0) as store:
        with redis.Redis.from_url(own_server.url) as raw:
            session_id, made = await turns_of_two(store, turns)
            await store.place(session_id, 0)  # the server knows the script from here on
            steps, sent = [], []
            for tokens in range(0, 2 * turns + 3, 7):
                reads, before = raw.info("commandstats")["cmdstat_hmget"]["calls"], traffic(raw)
                place = await store.place(session_id, tokens)
                steps.append(raw.info("commandstats")["cmdstat_hmget"]["calls"] - reads)
                sent.append((traffic(raw) - before)[2])
                found = [None if one is None else one.id for one in (place.before, place.within)]
                assert found == [
                    made[tokens // 2 - 1] if 1 < tokens <= 2 * turns else made[-1] if tokens > 1
                    else None,
                    made[tokens // 2] if tokens < 2 * turns else None,
                ]  # fmt: skip
            assert max(steps) <= 2 * np.log2(turns) + 4
            assert max(sent) < 16384  # bytes: two snapshots, and the server's own counts

            fork = await store.branch_at(session_id, tokens=turns + 1)
            assert fork.head == made[turns // 2 - 1]


async def test_places_are_found_in_histories_that_began_before_ways_back_were_marked(own_server):
    turns = 40
    async with await StateStore.connect(own_server.url, prefix="q", timeout=60.0) as store:
        with redis.Redis.from_url(own_server.url) as raw:
            session_id, made = await turns_of_two(store, turns)
            for old in made[:25]:
                assert raw.hdel(LineageKeys("q", lineage_of(old)).snapshot(old), "skip")
            for tokens in range(2 * turns + 1):
                place = await store.place(session_id, tokens)
                assert (place.before and place.before.id) == (made[: tokens // 2] or [None])[-1]
                assert (place.within and place.within.id) == ((made[tokens // 2 :] or [None])[0])
            fork = await store.branch_at(session_id, tokens=21)
            lease = await store.acquire(fork.id, ttl=600, owner="writer")
            draft = SnapshotDraft(
                session_id=fork.id, parent=fork.head, new_tokens=array("I", [1]), total_tokens=21,
                boundary=0, boundary_hash=None, page_hashes=(), fingerprint_id=MODEL.id, ranks=1,
            )  # fmt: skip
            commit = await store.commit(draft, lease=lease, durability="memory")
            assert (await store.place(fork.id, 20)).within == commit.snapshot


async def test_seeing_where_a_head_is_costs_the_same_at_any_length_once_it_was_looked_at(
    own_server,
):
    client = ObjectClient(own_server.url, timeout=30.0)
    async with await StateStore.connect(own_server.url, prefix="p") as store:
        sessions = [await session_of(store, client, "p", 64 * PAGE * n) for n in (1, 40)]
        costs = []
        with redis.Redis.from_url(own_server.url) as raw:
            for session_id in sessions:
                assert await store.residency(session_id) == "stored"
                before = traffic(raw)
                assert await store.residency(session_id) == "stored"
                costs.append((traffic(raw) - before)[:2])
    short, long = costs
    assert np.array_equal(short, long)
    assert short[0] <= 4, "one for the session, one for all that is looked at, two of `traffic`"
    client.close()
