"""A second engine beside the stage's, on the same store.

Starting one is what takes time here, so it serves all tests of this folder. Some of them stop both
and continue them; `test_taken_over` kills them, and comes last. The stage's is started again then.
"""

from pathlib import Path

import pytest

from agent_runtime.demo.script import SYSTEM
from engine.launch import EngineOptions, EngineProcess, free_port
from engine.pool import EnginePool

from ..limited import limited_url


@pytest.fixture(scope="package")
def second(stage):
    """An engine like the stage's, on the same store, as the user that the docs describe."""
    log_file = Path(stage.layout.data) / "second.log"
    process = EngineProcess(
        EngineOptions(
            profile=stage.profile,
            redis_url=limited_url(stage),
            log_file=log_file,
            model=stage.model,
            port=free_port(),
            engine_id="second",
        )
    )
    with process:
        process.wait_until_serving()
        yield process


@pytest.fixture(scope="package")
def engines(stage, second):
    """Both, by id."""
    yield {"engine": stage.engine, "second": second}
    if not stage.engine.is_alive():
        stage.engine.start()
        stage.engine.wait_until_serving()


@pytest.fixture
async def pool(store):
    pool = EnginePool(store)
    yield pool
    await pool.close()


@pytest.fixture
async def new_session(request, engines, torpor, registry):
    made = []

    async def new():
        system = f"{SYSTEM} {request.node.name} {len(made)}"  # no other test's, and no chance
        made.append(await torpor.create(system=system, tools=registry.specs()))
        return made[-1]

    yield new
    for session in made:
        await torpor.delete(session.id)
