"""Two ranks, as processes of one engine over gloo: each stores its half, and all decide alike."""

from contextlib import asynccontextmanager

import psutil
import pytest
import redis
from engine_cpu.server import MODEL, MTP, PAGE_SIZE
from engine_cpu.transformers_oracle import TransformersModel

from engine.errors import LoadFailed
from engine.pool import EnginePool
from state_store.codec import HEADER_BYTES
from state_store.layout import ObjectNames, ObjectRef

from .linked import (
    SECONDS,
    ask,
    chain,
    linked,
    make_ready,
    random_tokens,
    stored_pages,
)
from .rank_proxy import RankProxy
from .sessions import assert_resumed, assert_right, begin, resume

pytestmark = pytest.mark.slow

# Every page beyond the least that staging memory holds is read when it is loaded, not before.
SETTINGS = {"kv_staging_bytes": 1, "timeout": 2.0}
STAGED = 8  # pages
LONG = 12 * PAGE_SIZE + 9


@pytest.fixture(scope="module")
def proxy(folder, store_server):
    proxy = RankProxy(folder / "proxy.sock", store_server.url)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def server(folder, proxy):
    with linked(MODEL, folder, proxy.url, "--tp-size", "2", *MTP, **SETTINGS) as server:
        yield server


@pytest.fixture
def redis_client(store_server):
    path = store_server.url.removeprefix("unix://")
    with redis.Redis(unix_socket_path=path) as client:
        yield client


@pytest.fixture
def key_of(engine):
    """Where an object of one rank is in the store."""

    def key(kind, page_hash, rank):
        names = ObjectNames("torpor", engine.record.fingerprint.id, rank)
        return names.key(ObjectRef(kind, page_hash))

    return key


@pytest.fixture
async def session(engine, request):
    """A session of its own for each test: its prompt, its answer, and the pages stored of it."""
    prompt = random_tokens(hash_of(request.node.name), LONG)
    answer = await ask(engine, prompt)
    pages = await stored_pages(engine, prompt)
    assert pages > STAGED + 2
    return prompt, answer, chain(engine, prompt[: pages * PAGE_SIZE])


def hash_of(name):
    return sum(ord(letter) << (i % 20) for i, letter in enumerate(name))


def test_no_rank_has_to_load_what_names_pages_in_its_first_prompt(server):
    ranks = [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if "scheduler" in process.name()
    ]
    assert len(ranks) == 2
    for rank in ranks:
        assert any("hicache_hash_cpp" in one.path for one in rank.memory_maps())


async def test_resumed_sessions_and_forks_go_on_as_if_never_interrupted(engine):
    sessions = await begin(engine)
    assert_right(sessions, TransformersModel(MODEL).logprobs)
    await engine.client.flush()
    answers = await resume(engine, sessions)
    assert_resumed(sessions, answers)
    assert max(answer.accept_length for answer in answers) > 1


async def test_each_rank_stores_its_own_share(engine, session, redis_client, key_of):
    _, _, hashes = session
    assert engine.record.ranks == engine.record.fingerprint.tp_size == 2
    for kind, size in (
        ("kv", engine.record.kv_object_bytes),
        ("state", engine.record.state_object_bytes),
    ):
        values = [redis_client.get(key_of(kind, hashes[-1], rank)) for rank in range(3)]
        assert [value and len(value) for value in values] == [size, size, None]
        assert values[0][HEADER_BYTES:] != values[1][HEADER_BYTES:]


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_state_that_one_rank_misses_is_recomputed_by_all(
    engine, session, redis_client, key_of, rank
):
    prompt, answer, hashes = session
    await engine.client.flush()
    assert redis_client.delete(key_of("state", hashes[-1], rank)) == 1
    found = await make_ready(engine, prompt[: len(hashes) * PAGE_SIZE])
    assert (found.state, found.reason) == (False, "1 state not in the store")
    again = await ask(engine, prompt)
    assert again.ids == answer.ids
    assert again.cached < len(hashes) * PAGE_SIZE


@pytest.mark.parametrize(
    ("rank", "damage"),
    [(1, "1 missing, 0 corrupt"), (0, "0 missing, 1 corrupt")],
    ids=["missing", "corrupt"],
)
async def test_a_page_that_one_rank_cannot_load_is_recomputed_by_all_and_said(
    engine, session, redis_client, key_of, rank, damage
):
    prompt, answer, hashes = session
    await engine.client.flush()
    await engine.announce(hashes, timeout=SECONDS)  # nothing is staged: the load reads the store
    where = key_of("kv", hashes[-1], rank)
    if "1 missing" in damage:
        assert redis_client.delete(where) == 1
    else:
        redis_client.setrange(where, HEADER_BYTES + 100, b"\xff\x01\xfe")
    with pytest.raises(LoadFailed, match=f"rank {rank}: kv objects: {damage}"):
        await ask(engine, prompt)
    again = await ask(engine, prompt)
    assert again.ids == answer.ids
    assert again.cached < len(hashes) * PAGE_SIZE
    # What was computed again is stored again, by all.
    assert await stored_pages(engine, prompt) == len(hashes)


async def test_when_one_rank_loses_the_store_all_recompute_and_say_so(engine, session, proxy):
    prompt, answer, hashes = session
    await engine.client.flush()
    await engine.announce(hashes, timeout=SECONDS)  # nothing is staged: the load reads the store
    proxy.lost = 1
    try:
        with pytest.raises(LoadFailed, match="rank 1: "):
            await ask(engine, prompt)
        again = await ask(engine, prompt)
    finally:
        proxy.lost = None
    assert again.ids == answer.ids
    assert again.cached < len(hashes) * PAGE_SIZE


async def test_what_expired_for_one_rank_is_stored_again_from_the_device(
    engine, session, redis_client, key_of
):
    prompt, answer, hashes = session
    lost = key_of("kv", hashes[3], 1)
    assert redis_client.delete(lost) == 1
    assert await engine.renew(hashes, timeout=SECONDS) == 1
    longer = [*prompt, *answer.ids, *random_tokens(5, PAGE_SIZE)]
    assert (await ask(engine, longer)).cached == len(hashes) * PAGE_SIZE
    assert await stored_pages(engine, longer) > len(hashes)
    assert redis_client.exists(lost)
    assert (await make_ready(engine, longer[: len(hashes) * PAGE_SIZE])).reason is None


@asynccontextmanager
async def another_engine(folder, store, url):
    """A second engine of two ranks over the same store."""
    settings = SETTINGS | {"engine_id": "another"}
    with linked(MODEL, folder, url, "--tp-size", "2", *MTP, **settings):
        pool = EnginePool(store)
        yield await pool.named("another")
        await pool.close()


async def test_a_new_process_of_two_ranks_goes_on_where_the_old_one_was(
    folder, store, proxy, engine
):
    sessions = await begin(engine, seed=1)
    async with another_engine(folder, store, proxy.url) as another:
        assert another.record.fingerprint == engine.record.fingerprint
        assert_resumed(sessions, await resume(another, sessions))
