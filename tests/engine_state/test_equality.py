"""What is restored goes on to the same tokens and log-probabilities as what was never interrupted.

Two ranks with speculation are in `test_tensor_parallel.py`, other models in
`test_other_hybrids.py`; docs/engine.md has the whole matrix.
"""

from contextlib import asynccontextmanager

import pytest
from engine_cpu.server import MODEL, MTP
from engine_cpu.transformers_oracle import TransformersModel

from engine.pool import EnginePool
from state_store.store import StateStore

from .linked import linked
from .sessions import assert_resumed, assert_right, begin, resume


@asynccontextmanager
async def serving(folder, store_server, engine_id, arguments):
    with linked(MODEL, folder, store_server.url, *arguments, engine_id=engine_id):
        async with await StateStore.connect(store_server.url) as store:
            pool = EnginePool(store)
            yield await pool.named(engine_id)
            await pool.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="one rank"),
        pytest.param(MTP, id="one rank, MTP"),
        pytest.param(["--tp-size", "2"], id="two ranks"),
    ],
)
async def test_sessions_and_forks_go_on_alike_after_a_flush_and_on_another_engine(
    folder, store_server, arguments
):
    async with serving(folder, store_server, "first", arguments) as first:
        sessions = await begin(first)
        assert_right(sessions, TransformersModel(MODEL).logprobs)
        await first.client.flush()
        assert_resumed(sessions, await resume(first, sessions))
        async with serving(folder, store_server, "second", arguments) as second:
            assert second.record.fingerprint == first.record.fingerprint
            answers = await resume(second, sessions)
            assert_resumed(sessions, answers)
            drafted = [answer.accept_length for answer in answers if answer.accept_length]
            assert bool(drafted) == (arguments is MTP)
