"""A store that is slow, gone or wrong delays a request at most, and never changes its answer."""

import asyncio
import time

import pytest
import redis
from engine_cpu.server import MODEL, MTP, PAGE_SIZE

from engine.errors import LoadFailed
from state_store.layout import ObjectNames, ObjectRef

from .linked import SECONDS, ask, chain, linked, make_ready, random_tokens, stored_pages
from .trouble import TroubledStore

DEADLINE = 2.0
QUEUE = 6
# Every page beyond the least that staging memory holds is read when it is loaded, not before. A
# connection is never given up by itself: it must be the deadline that ends a load.
SETTINGS = {
    "kv_staging_bytes": 1,
    "timeout": 120.0,
    "load_deadline": DEADLINE,
    "offload_queue_count": QUEUE,
}
LONG = 12 * PAGE_SIZE + 9


@pytest.fixture(scope="module")
def trouble(folder, store_server):
    trouble = TroubledStore(folder / "trouble.sock", store_server.url)
    yield trouble
    trouble.close()


@pytest.fixture(scope="module")
def server(folder, trouble):
    with linked(MODEL, folder, trouble.url, *MTP, **SETTINGS) as server:
        yield server


@pytest.fixture
def slow(trouble):
    """The store answers nobody until the test ends, or sets `flowing`."""
    yield trouble
    trouble.flowing.set()


@pytest.fixture
def delete(engine, store_server):
    def delete(kind, page_hash):
        names = ObjectNames("torpor", engine.record.fingerprint.id, 0)
        with redis.Redis(unix_socket_path=store_server.url.removeprefix("unix://")) as client:
            assert client.delete(names.key(ObjectRef(kind, page_hash))) == 1

    return delete


async def begun(engine, seed):
    """A stored prompt that the engine no longer holds, its answer, and its stored tokens."""
    prompt = random_tokens(seed, LONG)
    answer = await ask(engine, prompt)
    ready = prompt[: await stored_pages(engine, prompt) * PAGE_SIZE]
    assert len(ready) > 10 * PAGE_SIZE
    return prompt, answer, ready


async def counters(engine):
    (counted,) = await engine.status(timeout=SECONDS)
    return counted


async def test_a_load_that_is_not_done_by_its_deadline_is_given_up_and_computed(engine, slow):
    prompt, answer, ready = await begun(engine, 1)
    before = await counters(engine)
    await engine.client.flush()
    assert (await make_ready(engine, ready)).reason is None
    slow.flowing.clear()
    started = time.monotonic()
    with pytest.raises(LoadFailed, match=f"within the load deadline of {DEADLINE:g} s"):
        await ask(engine, prompt)
    assert time.monotonic() - started >= DEADLINE
    again = await ask(engine, prompt)  # the store is still silent, and is not asked
    assert again.ids == answer.ids
    assert again.cached < len(ready)
    slow.flowing.set()
    assert await stored_pages(engine, prompt) * PAGE_SIZE >= len(ready)
    after = await counters(engine)
    assert after["loads_late"] == before["loads_late"] + 1
    assert after["load_failures"] == before["load_failures"] + 1


async def test_only_the_request_whose_state_is_missing_fails(engine, delete):
    begun_ones = [await begun(engine, seed) for seed in (2, 3, 4)]
    await engine.client.flush()
    for _, _, ready in begun_ones:
        assert (await make_ready(engine, ready)).reason is None
    delete("kv", chain(engine, begun_ones[1][2])[-1])
    # While a long prompt is computed the others queue up, so that one batch takes them.
    busy = asyncio.create_task(ask(engine, random_tokens(5, 4000), 1))
    answers = await asyncio.gather(
        *(ask(engine, prompt) for prompt, _, _ in begun_ones), return_exceptions=True
    )
    await busy
    assert isinstance(answers[1], LoadFailed)
    assert "kv objects: 1 missing" in str(answers[1])
    for at in (0, 2):
        _, answer, ready = begun_ones[at]
        assert answers[at].ids == answer.ids
        assert answers[at].cached >= len(ready)
    again = await ask(engine, begun_ones[1][0])
    assert again.ids == begun_ones[1][1].ids


async def test_a_request_may_ask_to_be_computed_whatever_is_stored(engine):
    prompt, answer, ready = await begun(engine, 6)
    await engine.client.flush()
    assert (await make_ready(engine, ready)).reason is None
    again = await ask(engine, prompt, restore=False)
    assert (again.ids, again.cached) == (answer.ids, 0)


async def test_what_waits_for_a_slow_store_is_bounded_and_stored_later(engine, slow):
    before = await counters(engine)
    slow.flowing.clear()
    prompts = [random_tokens(seed, LONG) for seed in (7, 8, 9, 10)]
    answers = [await ask(engine, prompt) for prompt in prompts]  # generation goes on
    slow.flowing.set()
    after = await counters(engine)
    assert after["offloads_turned_away"] > before["offloads_turned_away"]
    assert after["offloads_waiting"] <= QUEUE
    # What was not taken is offered again when its session settles.
    ready = [p[: await stored_pages(engine, p) * PAGE_SIZE] for p in prompts]
    await engine.client.flush()
    for prompt, answer, tokens in zip(prompts, answers, ready, strict=True):
        assert len(tokens) > 10 * PAGE_SIZE
        assert (await make_ready(engine, tokens)).reason is None
        again = await ask(engine, prompt)
        assert (again.ids, again.cached) == (answer.ids, len(tokens))


async def test_what_could_not_be_stored_is_stored_when_its_session_settles(engine, trouble):
    before = await counters(engine)
    trouble.go()
    prompt = random_tokens(20, LONG)
    answer = await ask(engine, prompt)  # generation goes on
    trouble.come_back()
    assert (await counters(engine))["offload_failures"] > before["offload_failures"]
    ready = prompt[: await stored_pages(engine, prompt) * PAGE_SIZE]
    assert len(ready) > 10 * PAGE_SIZE
    await engine.client.flush()
    assert (await make_ready(engine, ready)).reason is None
    again = await ask(engine, prompt)
    assert (again.ids, again.cached) == (answer.ids, len(ready))


async def test_a_chain_is_on_the_device_until_it_is_dropped_or_held_for_a_time(engine):
    prompt, answer, ready = await begun(engine, 21)
    hashes = chain(engine, ready)
    pages = len(hashes)

    async def where():
        return await engine.where(hashes, name="mine", timeout=SECONDS)

    found = await where()
    assert (found.device.pages, found.stored.pages, found.held_for) == (pages, pages, None)
    assert pages in found.device.states
    assert pages in found.stored.states
    assert found.staged.pages == 0

    held = await engine.hold(hashes, name="mine", seconds=600, timeout=SECONDS)
    assert held.pages >= pages
    assert held.reason is None
    assert 0 < (await where()).held_for <= 600
    assert await engine.drop(hashes, timeout=SECONDS) == 0
    for seed in range(30, 36):  # more than the device has room for
        await ask(engine, random_tokens(seed, 4000), 1)
    assert (await where()).device.pages == pages
    assert (await ask(engine, prompt)).cached >= len(ready)

    assert await engine.let_go("mine", timeout=SECONDS)
    assert not await engine.let_go("mine", timeout=SECONDS)
    await engine.hold(hashes, name="mine", seconds=0.1, timeout=SECONDS)
    while (await where()).held_for is not None:  # it ends by itself
        pass
    whole = chain(engine, prompt + answer.ids)  # what was generated continues from it
    assert await engine.drop(whole, timeout=SECONDS) >= 1
    assert (await where()).device.pages < pages
    assert (await make_ready(engine, ready)).reason is None
    assert (await where()).staged.pages >= 8
    assert (await ask(engine, prompt)).ids == answer.ids


async def test_what_expired_is_persisted_again_on_demand(engine, delete):
    _, _, ready = await begun(engine, 22)
    hashes = chain(engine, ready)
    delete("kv", hashes[2])
    assert await engine.renew(hashes, timeout=SECONDS) == 1
    settled = await engine.persist(hashes, timeout=SECONDS)
    assert (settled.reason, settled.states[-1]) == (None, len(hashes))
    found = await engine.where(hashes, name="", timeout=SECONDS)
    assert found.stored.pages == len(hashes)


async def test_what_the_store_has_lost_is_not_dropped_from_the_device(engine, delete):
    prompt, answer, ready = await begun(engine, 23)
    hashes, whole = chain(engine, ready), chain(engine, prompt + answer.ids)
    for page_hash in hashes:
        delete("kv", page_hash)
    assert await engine.renew(hashes, timeout=SECONDS) == len(hashes)
    await engine.drop(whole, timeout=SECONDS)
    found = await engine.where(hashes, name="", timeout=SECONDS)
    assert (found.device.pages, found.stored.pages) == (len(hashes), 0)
    settled = await engine.persist(hashes, timeout=SECONDS)
    assert (settled.reason, settled.states[-1]) == (None, len(hashes))
    assert await engine.drop(whole, timeout=SECONDS) >= len(hashes)
    found = await engine.where(hashes, name="", timeout=SECONDS)
    assert (found.device.pages, found.stored.pages) == (0, len(hashes))


async def test_nothing_is_held_of_what_is_not_there_or_too_much(engine):
    nothing = await engine.hold(["ab" * 32], name="none", seconds=60, timeout=SECONDS)
    assert (nothing.pages, nothing.reason) == (0, "nothing of it is on the device")
    large = random_tokens(40, 7000)
    hashes = chain(engine, large)
    for end in (4000, 7000):
        await ask(engine, large[:end], 1)
    assert (await engine.hold(hashes, name="a", seconds=60, timeout=SECONDS)).pages > 100
    refused = await engine.hold(hashes, name="b", seconds=60, timeout=SECONDS)
    assert refused.pages == 0
    assert "1 others are held" in refused.reason
    assert await engine.let_go("a", timeout=SECONDS)
