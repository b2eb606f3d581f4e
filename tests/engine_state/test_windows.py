"""Layers with sliding windows, beside Mamba layers or alone: their sessions come back too."""

from contextlib import asynccontextmanager
from functools import partial

import pytest
from engine_cpu.server import PAGE_SIZE

from engine.pool import EnginePool
from state_store.store import StateStore

from .hybrids import RandomModel, WindowedNemotronH, mellum
from .linked import SECONDS, ask, chain, linked, make_ready, random_tokens, stored_pages, used
from .sessions import TOLERANCE, assert_resumed, assert_right, begin, resume

NO_MAMBA = ["--mamba-radix-cache-strategy", "auto"]  # SGLang refuses the tests' own without states
FEW_WINDOWS = ["--swa-full-tokens-ratio", "0.1"]


@asynccontextmanager
async def running(model, folder, url, *arguments):
    """An engine that afterwards, emptied, has every slot of its pools back."""
    with linked(model.folder, folder, url, *arguments) as server:
        async with await StateStore.connect(url) as store:
            pool = EnginePool(store)
            engine = await pool.pick()
            yield engine
            await engine.client.flush()
            assert await used(server) == (0, 0, 0)
            assert server.process.poll() is None, "SGLang counted its pools, and one lacks slots"
            await pool.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        pytest.param(partial(RandomModel, mellum), [*NO_MAMBA, "--tp-size", "2"], id="Mellum"),
        pytest.param(WindowedNemotronH, [], id="Nemotron-H with windows"),
    ],
)
async def test_sessions_with_windows_are_right_and_resume(store_server, tmp_path, make, arguments):
    model = make(tmp_path / "model")
    async with running(model, tmp_path, store_server.url, *arguments) as engine:
        sessions = await begin(engine)
        assert_right(sessions, model.logprobs)
        await engine.client.flush()
        assert_resumed(sessions, await resume(engine, sessions))
    async with running(model, tmp_path, store_server.url, *arguments) as new_process:
        assert_resumed(sessions, await resume(new_process, sessions))


async def test_a_window_that_the_device_let_go_of_is_loaded_again(store_server, tmp_path):
    model = RandomModel(mellum, tmp_path / "model")
    async with running(model, tmp_path, store_server.url, *NO_MAMBA, *FEW_WINDOWS) as engine:
        prompt = random_tokens(1, 9 * PAGE_SIZE + 33)
        control = await ask(engine, prompt)
        pages = await stored_pages(engine, prompt)
        assert pages == 9
        where = partial(engine.where, chain(engine, prompt), name="nobody's", timeout=SECONDS)
        assert max((await where()).device.states) == pages
        for other in range(12):
            await ask(engine, random_tokens(10 + other, 3 * PAGE_SIZE), 1)
        device = (await where()).device
        # The last node goes with its window, what is before it only loses its own.
        assert (device.pages, device.states) == (pages - 1, ())
        assert (await make_ready(engine, prompt[: pages * PAGE_SIZE])).reason is None
        again = await ask(engine, prompt)
        assert again.ids == control.ids
        assert again.top == pytest.approx(control.top, abs=TOLERANCE)
        assert again.cached == pages * PAGE_SIZE
        (status,) = await engine.status(timeout=SECONDS)
        assert status["objects_loaded"] == pages + 1
