"""A store whose round trips are disturbed, beside one that survives."""

from __future__ import annotations

import contextlib
import secrets

from writer import RANKS, Trips, Writer

from state_store.store import StateStore

BASE, TURN = range(8), range(8, 20)


class World:
    """A fresh prefix: `writer` is the survivor, `victim` the store that is disturbed."""

    def __init__(self, writer: Writer, victim: StateStore) -> None:
        self.writer = writer
        self.victim = victim
        self.trips = Trips(victim)

    async def check(self, raw, *, objects: int) -> None:
        """Recovered, the store holds `objects` objects and no trace of what went wrong."""
        await self.writer.store.recover(older_than=0)
        report = await self.writer.store.check_integrity()
        assert report.problems == []
        assert report.objects == objects * RANKS
        for left in ("journals", "aborted", "dead"):
            assert raw.keys(f"{self.writer.prefix}:{{*}}:{left}") == []


@contextlib.asynccontextmanager
async def new_world(server, objects):
    prefix = f"t{secrets.token_hex(4)}"
    async with (
        await StateStore.connect(server.url, prefix=prefix) as store,
        await StateStore.connect(server.url, prefix=prefix) as victim,
    ):
        yield World(Writer(store, objects, prefix), victim)
