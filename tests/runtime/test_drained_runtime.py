"""A runtime that is told to stop leaves its sessions suspended, for any other to go on with."""

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import Torpor
from tests.serving import runtime_process


async def test_what_it_held_is_suspended_and_goes_on_elsewhere(
    stage, torpor, store, registry, tmp_path
):
    log = tmp_path / "runtime.log"
    leaving = runtime_process(
        stage.store.url,
        log,
        archive=stage.archive,
        model=stage.model,
    )
    with leaving:
        async with Torpor(leaving.url) as client:
            session = await client.create(system=SYSTEM, tools=registry.specs())
            first = await client.turn(session.id, "What is 48 * 17?", max_tokens=8)
            assert first.boundary > 0
            assert (await client.get(session.id)).residency == "device"
        leaving.stop()
        assert leaving.process.returncode == 0
    assert "0 turns were ended at the limit, 1 sessions suspended, 0 not" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert await store.writer(session.id) is None
    assert (await store.session(session.id)).head == first.snapshot
    assert (await torpor.get(session.id)).residency == "stored"
    second = await torpor.turn(session.id, "Thanks.", max_tokens=8)
    assert second.parent == first.snapshot
    assert second.usage.reused_tokens == first.boundary
    await torpor.delete(session.id)
