"""A store that cannot be reached is one kind of error, and no message shows a password."""

from __future__ import annotations

import time

import pytest
import redis

from state_store.address import public_url
from state_store.errors import StoreRefused, StoreUnavailable
from state_store.objects import ObjectClient
from state_store.registry import CommandListener
from state_store.store import StateStore

UNREACHABLE = [
    "redis://user:secret@127.0.0.1:1/0",
    "rediss://:secret@127.0.0.1:1",
    "redis://127.0.0.1:1?password=secret&db=2",
    "unix://user:secret@/nowhere/valkey.sock",
]
NOT_URLS = ["", "secret", "http://u:secret@h", "redis://:secret/x@h:1", "redis://u:secret@h:port"]


def shown(error: BaseException | None) -> str:
    """What a user sees: the message, not the chain of causes."""
    return str(error)


@pytest.mark.parametrize("url", UNREACHABLE)
async def test_an_unreachable_store_is_unavailable_at_once(url):
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as control:
        await StateStore.connect(url, timeout=2.0)
    with pytest.raises(StoreUnavailable) as bulk:
        ObjectClient(url, timeout=2.0).ping()
    assert time.monotonic() - started < 2.0
    for error in (control.value, bulk.value):
        assert "secret" not in shown(error)
        assert public_url(url) in shown(error)


@pytest.mark.parametrize("url", NOT_URLS)
async def test_a_text_that_is_no_redis_url_is_unavailable(url):
    with pytest.raises(StoreUnavailable, match="not a Redis URL") as control:
        await StateStore.connect(url)
    with pytest.raises(StoreUnavailable, match="not a Redis URL") as bulk:
        ObjectClient(url, timeout=1.0).ping()
    with pytest.raises(StoreUnavailable, match="not a Redis URL") as registry:
        CommandListener(url, "engine", 0, {}, prefix="p")
    if url != "secret":
        for error in (control.value, bulk.value, registry.value):
            assert "secret" not in shown(error)
            assert "cret/x" not in shown(error)


async def test_a_wrong_password_is_refused_not_unavailable(own_server):
    with redis.Redis.from_url(own_server.url) as raw:
        raw.config_set("requirepass", "right")
        socket = own_server.url.removeprefix("unix://")
        for url in (own_server.url, f"unix://:secret@{socket}"):
            with pytest.raises(StoreRefused) as control:
                await StateStore.connect(url)
            with pytest.raises(StoreRefused) as bulk:
                ObjectClient(url, timeout=1.0).ping()
            assert "secret" not in shown(control.value) + shown(bulk.value)
        right = f"unix://:right@{socket}"
        async with await StateStore.connect(right) as store:
            assert await store.sessions("default") == []
        client = ObjectClient(right, timeout=1.0)
        client.ping()
        client.close()
        raw.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:p@h:1", "redis://u:***@h:1"),
        ("redis://:p@q@h", "redis://:***@h"),
        ("redis://h?db=1&password=p&x=y", "redis://h?db=1&password=***&x=y"),
        ("unix:///a/b.sock", "unix:///a/b.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url, public):
    assert public_url(url) == public
