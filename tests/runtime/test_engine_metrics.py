"""What engines count, as a runtime tells it: one that answers oddly hides no other."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from agent_runtime.http.engine_metrics import EngineMetrics
from agent_runtime.http.instruments import Instruments
from agent_runtime.telemetry import no_telemetry
from engine.pool import EnginePool
from state_store.embedded import EmbeddedServer
from state_store.store import StateStore

from .pretended import Pretended


@pytest.fixture
async def engines(tmp_path):
    """Two, by id: what each pretends to be, and as the pool has it."""
    with EmbeddedServer(tmp_path) as server:
        async with await StateStore.connect(server.url) as store:
            pool = EnginePool(store)
            made = {name: Pretended(server.url, name) for name in ("odd", "other")}
            async with asyncio.timeout(30):
                while len(await pool.records()) < len(made):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            yield {name: (one, await pool.named(name)) for name, one in made.items()}
            for one in made.values():
                await asyncio.to_thread(one.end)
            await pool.close()


@pytest.fixture
def told(engines):
    """Looks at both engines, and reads one engine's number."""
    registry = CollectorRegistry()
    metrics = EngineMetrics(Instruments(registry, no_telemetry().meter))

    async def told(name, engine, **labels):
        await metrics.look([known for _, known in engines.values()])
        return registry.get_sample_value(name, {"engine": engine, **labels})

    return told


@pytest.mark.parametrize(
    "counts", [{}, {"prefilled_tokens": None}, {"bytes_loaded": "many"}, {"load_seconds": [1]}]
)
async def test_an_engine_of_another_version_is_left_out_and_the_others_are_told(
    engines, told, counts
):
    odd, _ = engines["odd"]
    odd.counts = {**odd.counts, **counts} if counts else {}
    assert await told("torpor_engine_answers", "odd") == 0
    assert await told("torpor_engine_answers", "other") == 1
    assert await told("torpor_engine_prefill_tokens_total", "other") == 10


async def test_an_engine_whose_load_has_another_form_is_told_without_it(engines, told):
    odd, known = engines["odd"]
    odd.loads[:] = [{"running": 1}]
    assert await told("torpor_engine_requests", "odd", place="running") is None
    assert await told("torpor_engine_requests", "other", place="running") == 0
    assert await told("torpor_engine_prefill_tokens_total", "odd") == 10
    assert await known.client.load(timeout=5.0) is None


async def test_counts_go_on_from_the_last_look_and_never_back(engines, told):
    odd, _ = engines["odd"]
    for prefilled, all_told in ((15, 15), (5, 15), (8, 18)):
        odd.counts["prefilled_tokens"] = prefilled
        assert await told("torpor_engine_prefill_tokens_total", "odd") == all_told


async def test_an_engine_that_was_not_seen_for_long_is_forgotten(told, monkeypatch):
    await told("torpor_engine_answers", "odd")
    assert await told("torpor_engine_prefill_tokens_total", "odd") == 10
    monkeypatch.setattr("agent_runtime.http.engine_metrics._FORGET", -1.0)
    await told("torpor_engine_answers", "odd")
    assert await told("torpor_engine_prefill_tokens_total", "odd") == 20
