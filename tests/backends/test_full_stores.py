"""A turn or a session that the store has no memory for is refused as such."""

import httpx
import pytest
import redis

from agent_runtime.sdk import ApiError, Torpor
from tests.backends.scripted import says


@pytest.fixture
def raw(bare_store):
    with redis.Redis.from_url(bare_store.url) as client:
        yield client
        client.config_set("maxmemory", 0)


async def test_it_says_so_and_what_is_there_can_be_deleted(scripted_app, said, raw):
    said.scripted += [says({"content": "Hello."})]
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as torpor:
        session = await torpor.create(system="Be brief.")
        await torpor.turn(session.id, "Hi")
        before = await torpor.get(session.id)
        raw.config_set("maxmemory", 1)
        for refused in (torpor.create(), torpor.turn(session.id, "And now?")):
            with pytest.raises(ApiError, match="no memory left") as caught:
                await refused
            assert (caught.value.status, caught.value.code) == (507, "store_full")
        assert await torpor.get(session.id) == before
        await torpor.delete(session.id)
