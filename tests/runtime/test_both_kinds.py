"""One runtime that serves an engine's sessions and a backend's, in one store."""

import pytest

from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.messages import Message
from tests.backends.endpoint import DONE, USAGE, Endpoint, Scripted, event
from tests.serving import runtime_process


@pytest.fixture(scope="module")
def scripted():
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture(scope="module")
def both(stage, scripted, tmp_path_factory):
    """Beside the stage's own runtime, which has no backend."""
    process = runtime_process(
        stage.store.url,
        tmp_path_factory.mktemp("both") / "runtime.log",
        model=stage.model,
        backend=scripted.url,
    )
    with process:
        yield process


async def test_each_session_is_served_as_what_it_is(both, torpor, store, scripted):
    hello = event({"content": "Hello."}, finish_reason="stop") + USAGE + DONE
    async with Torpor(both.url) as client:
        kept, other = await client.create(), await client.create(stateless=True)
        assert (kept.residency, other.residency) == ("empty", "none")
        scripted.scripted.append(Scripted(hello))
        assert (await client.turn(other.id, "Hi")).text == "Hello."
        turn = await client.turn(kept.id, "Hi", max_tokens=8)
        assert (turn.token_ids != [], (await client.get(kept.id)).residency) == (True, "device")
        fork = await client.fork(kept.id, tokens=3)  # what only a session with state can
        assert fork.tokens == 3

        assert (await torpor.get(other.id)).residency == "none"  # by a runtime without a backend
        with pytest.raises(ApiError, match="has no backend") as caught:
            await torpor.turn(other.id, [Message(role="user", content="Hi")])
        assert caught.value.code == "no_backend"
        assert (await store.check_integrity()).problems == []
        for one in (kept, other, fork):
            await torpor.delete(one.id)
