"""What a runtime that is killed has made for answers that did not come."""

import asyncio
import contextlib

import httpx
import pytest

from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.service.api import create_app
from agent_runtime.wire.messages import Message
from engine.backends.settings import BackendSettings
from tests.serving import runtime_process

from .slow import SlowEndpoint

SAID = [Message(role="user", content="Well?")]


@pytest.fixture
def slow():
    endpoint = SlowEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def serving(settings, slow):
    """Runtimes in this process, which look often for what others leave."""

    @contextlib.asynccontextmanager
    async def serving(**given):
        given |= {"lease_ttl": 0.2, "recovery_interval": 0.1}
        given |= {"backend": BackendSettings(url=slow.url, model="scripted")}
        app = create_app(settings.model_copy(update=given))
        async with (
            app.router.lifespan_context(app),
            Torpor("http://runtime", transport=httpx.ASGITransport(app)) as torpor,
        ):
            yield torpor

    return serving


async def begin(torpor, key):
    """Have it answer a conversation; until its first words come."""
    events = torpor.converse_stream(SAID, idempotency_key=key, stateless=True)
    await anext(events)
    return events


async def answered(torpor, key):
    """As a client asks again, until the lease of the dead is over."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await torpor.converse(SAID, idempotency_key=key, stateless=True)
            except ApiError as error:
                if error.code != "still_running":
                    raise
                await asyncio.sleep(0.1)


async def test_a_session_that_a_killed_runtime_has_begun_is_taken_up_or_deleted(
    bare_store, store, slow, tmp_path, serving
):
    async def sessions():
        return {session.id for session in await store.sessions("default")}

    before = await sessions()
    dying = runtime_process(
        bare_store.url, tmp_path / "log", backend=slow.url, options=["--set", "lease_ttl=1"]
    )
    with dying:
        async with Torpor(dying.url) as torpor:
            begun = [await begin(torpor, key) for key in ("kept", None)]
            left = await sessions() - before
            dying.kill()
            for events in begun:
                await events.aclose()
    assert len(left) == 2
    slow.go.set()
    async with serving() as torpor:
        kept = (await answered(torpor, "kept")).session_id
        assert kept in left
    assert await sessions() - before == left  # in its time, the other may be taken up, too
    async with serving(request_ttl=0.1) as torpor:
        async with asyncio.timeout(30):
            while await sessions() - before != {kept}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (
            'torpor_gc_objects_total{kind="unfinished"} 1.0'
            in (await torpor._http.get("/metrics")).text
        )
    assert (await store.session(kept)).head is not None
    await store.delete_session(kept)
