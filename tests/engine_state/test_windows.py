"""Layers with sliding windows, beside Mamba layers or alone: their sessions come back too."""

from contextlib import asynccontextmanager
from functools import partial

import pytest
import redis
from engine_cpu.server import PAGE_SIZE

from engine.errors import LoadFailed
from engine.pool import EnginePool
from state_store.layout import ObjectNames, ObjectRef
from state_store.store import StateStore

from .hybrids import RandomModel, WindowedNemotronH, mellum
from .linked import SECONDS, ask, chain, linked, make_ready, random_tokens, stored_pages, used
from .sessions import TOLERANCE, assert_resumed, assert_right, begin, resume

pytestmark = pytest.mark.slow

NO_MAMBA = ["--mamba-radix-cache-strategy", "auto"]  # SGLang refuses the tests' own without states
FEW_WINDOWS = ["--swa-full-tokens-ratio", "0.1"]  # 25 pages of them, for 256 of other KV
PAGES = 9


@asynccontextmanager
async def engine_of(server, url, engine_id="engine"):
    """It afterwards, emptied, has every slot of its pools back."""
    async with await StateStore.connect(url) as store:
        pool = EnginePool(store)
        engine = await pool.named(engine_id)
        yield engine
        await engine.client.flush()
        assert await used(server) == (0, 0, 0)
        assert server.process.poll() is None, "SGLang counted its pools, and one lacks slots"
        await pool.close()


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        pytest.param(partial(RandomModel, mellum), [*NO_MAMBA, "--tp-size", "2"], id="Mellum"),
        pytest.param(WindowedNemotronH, [], id="Nemotron-H with windows"),
    ],
)
async def test_sessions_with_windows_are_right_and_resume_there_and_on_another_engine(
    store_server, tmp_path, make, arguments
):
    model, url = make(tmp_path / "model"), store_server.url

    @asynccontextmanager
    async def serving(engine_id):
        with linked(model.folder, tmp_path, url, *arguments, engine_id=engine_id) as server:
            async with engine_of(server, url, engine_id) as engine:
                yield engine

    async with serving("first") as first:
        sessions = await begin(first)
        assert_right(sessions, model.logprobs)
        await first.client.flush()
        assert_resumed(sessions, await resume(first, sessions))
        async with serving("second") as second:
            assert second.record.fingerprint == first.record.fingerprint
            assert_resumed(sessions, await resume(second, sessions))
            assert all(rank["objects_loaded"] for rank in await second.status(timeout=SECONDS))


@pytest.fixture(scope="module")
def model(folder):
    return RandomModel(mellum, folder / "model")


@pytest.fixture(scope="module")
def server(folder, store_server, model):
    with linked(model.folder, folder, store_server.url, *NO_MAMBA, *FEW_WINDOWS) as server:
        yield server


@pytest.fixture
async def engine(server, store_server):
    async with engine_of(server, store_server.url) as engine:
        yield engine


async def begun(engine, seed):
    """A prompt whose end is stored, and its answer."""
    prompt = random_tokens(seed, PAGES * PAGE_SIZE + 33)
    answer = await ask(engine, prompt)
    assert await stored_pages(engine, prompt) == PAGES
    return prompt, answer


async def crowd_out(engine, seed):
    """Take the room of all windows that nothing keeps, but not that of other KV."""
    for other in range(12):
        await ask(engine, random_tokens(1000 * seed + other, 3 * PAGE_SIZE), 1)


async def on_device(engine, prompt):
    where = await engine.where(chain(engine, prompt), name="the prompt", timeout=SECONDS)
    return where.device


async def loaded(engine):
    (status,) = await engine.status(timeout=SECONDS)
    return status["objects_loaded"]


async def test_a_window_that_the_device_let_go_of_is_loaded_again(engine):
    prompt, control = await begun(engine, 1)
    assert max((await on_device(engine, prompt)).states) == PAGES
    await crowd_out(engine, 1)
    device = await on_device(engine, prompt)
    # The last node goes with its window; what is before it loses its own only.
    assert (device.pages, device.states) == (PAGES - 1, ())
    before = await loaded(engine)
    assert (await make_ready(engine, prompt[: PAGES * PAGE_SIZE])).reason is None
    again = await ask(engine, prompt)
    assert again.ids == control.ids
    assert again.top == pytest.approx(control.top, abs=TOLERANCE)
    assert again.cached == PAGES * PAGE_SIZE
    assert await loaded(engine) == before + PAGES + 1


async def test_a_window_that_is_held_stays(engine):
    prompt, control = await begun(engine, 2)
    held = await engine.hold(
        chain(engine, prompt), name="the prompt", seconds=SECONDS, timeout=SECONDS
    )
    assert (held.pages, held.reason) == (PAGES, None)
    await crowd_out(engine, 2)
    assert max((await on_device(engine, prompt)).states) == PAGES
    before = await loaded(engine)
    assert (await ask(engine, prompt)).ids == control.ids
    assert await loaded(engine) == before
    assert await engine.let_go("the prompt", timeout=SECONDS)


async def test_a_window_that_the_store_has_lost_fails_its_load_and_is_computed(
    engine, store_server
):
    prompt, control = await begun(engine, 3)
    await engine.client.flush()
    hashes = chain(engine, prompt)
    await engine.announce(hashes, timeout=SECONDS)
    names = ObjectNames("torpor", engine.record.fingerprint.id, 0)
    with redis.Redis(unix_socket_path=store_server.url.removeprefix("unix://")) as client:
        assert client.delete(names.key(ObjectRef("state", hashes[-1]))) == 1
    with pytest.raises(LoadFailed, match="state objects: 1 missing"):
        await ask(engine, prompt)
    again = await ask(engine, prompt)
    assert again.ids == control.ids
    assert await stored_pages(engine, prompt) == PAGES, "what was lost is stored again"


async def test_a_prompt_that_parts_where_no_window_is_left_has_boundaries_there_and_at_its_end(
    engine, model
):
    prompt, _ = await begun(engine, 4)
    await crowd_out(engine, 4)
    assert (await on_device(engine, prompt)).states == ()
    parting = 6
    other = prompt[: parting * PAGE_SIZE + 10] + random_tokens(5, 100)
    answer = await ask(engine, other)
    expected = model.logprobs([*other, *answer.ids[:-1]])[len(other) - 1 :]
    assert expected.argmax(-1).tolist() == answer.ids
    settled = await engine.settle(chain(engine, other), timeout=SECONDS)
    assert {parting, len(other) // PAGE_SIZE} <= set(settled.states)
