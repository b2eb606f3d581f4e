"""Hybrids besides Nemotron: SGLang computes them right on a CPU, and their state comes back."""

import pytest

from engine.pool import EnginePool
from state_store.store import StateStore

from .hybrids import RandomModel, falcon_h1, falcon_h1_of_two_groups, granite_4
from .linked import linked
from .sessions import assert_resumed, assert_right, begin, resume

pytestmark = pytest.mark.slow

TWO_RANKS = ["--tp-size", "2"]
LONG_CHUNKS = ["--mamba-track-interval", "256", "--chunked-prefill-size", "512"]


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        pytest.param(falcon_h1, [], id="Falcon-H1"),
        # A group that both ranks need a copy of.
        pytest.param(falcon_h1, TWO_RANKS, id="Falcon-H1, 2 ranks"),
        pytest.param(falcon_h1_of_two_groups, LONG_CHUNKS, id="Falcon-H1, 2 groups"),
        pytest.param(granite_4, TWO_RANKS, id="Granite 4, 2 ranks"),
    ],
)
async def test_sessions_of_another_hybrid_are_right_and_resume(
    folder, store_server, tmp_path, make, arguments
):
    model = RandomModel(make, tmp_path / "model")
    with linked(model.folder, tmp_path, store_server.url, *arguments):
        async with await StateStore.connect(store_server.url) as store:
            pool = EnginePool(store)
            engine = await pool.pick()
            sessions = await begin(engine)
            assert_right(sessions, model.logprobs)
            await engine.client.flush()
            assert_resumed(sessions, await resume(engine, sessions))
            await pool.close()
