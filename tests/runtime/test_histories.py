"""Histories are held within a bound of tokens, the longest unused let go of first."""

from array import array

import pytest

from agent_runtime.messages.histories import Histories, History
from state_store.embedded import EmbeddedServer
from state_store.errors import NotFound
from state_store.store import StateStore
from tests.state_store.writer import FINGERPRINT

FORMAT = FINGERPRINT.id
LIKE = {"fingerprint": FINGERPRINT, "salt": ""}
LONG = 1 << 20  # tokens


def named(number):
    return f"snp-0123456789abcdef-{number:032x}"


@pytest.fixture
async def histories(tmp_path):
    """Over a store that has none of them."""
    with EmbeddedServer(tmp_path / "store") as server:
        async with await StateStore.connect(server.url) as store:
            yield Histories(store, capacity=3 * LONG + 8192)


async def test_long_histories_are_few_and_short_ones_many(histories):
    long = [History(array("I", bytes(4 * LONG)), [], 0, FORMAT, FORMAT) for _ in range(6)]
    for number, history in enumerate(long[:3]):
        histories.hold(named(number), history)
    assert await histories.of(named(0), **LIKE) is long[0]  # used again
    histories.hold(named(3), long[3])
    with pytest.raises(NotFound):
        await histories.of(named(1), **LIKE)
    for number in (0, 2, 3):
        assert await histories.of(named(number), **LIKE) is long[number]
    histories.hold(named(0), long[4])  # what is held twice counts once
    assert await histories.of(named(2), **LIKE) is long[2]

    short = History(array("I", [1, 2, 3]), [], 0, FORMAT, FORMAT)
    for number in range(10, 1010):
        histories.hold(named(number), short)
    for number in range(10, 1010):
        assert await histories.of(named(number), **LIKE) is short
    with pytest.raises(NotFound):
        await histories.of(named(3), **LIKE)


async def test_one_history_is_held_however_long(histories):
    longest = History(array("I", bytes(4 * 5 * LONG)), [], 0, FORMAT, FORMAT)
    histories.hold(named(1), longest)
    assert await histories.of(named(1), **LIKE) is longest
