"""Random lives of objects between Redis and the archive, with deaths at random steps."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from shelf import RANKS, Shelf, Steps, value_of

from state_store.errors import ArchivedObjectsLost, StoreError

WHICH = st.integers(0, 2)
PINS = st.sampled_from(["one", "two"])
DEATHS = st.none() | st.tuples(st.sampled_from(["before", "after"]), st.integers(1, 24))


class Objects(RuleBasedStateMachine):
    """`pins`: the commits that hold each of three objects. One that is held can be loaded; one
    that is not is gone, or going, from both places."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.shelf = self.run(self.opened())
        self.snapshot = self.shelf.snapshot(pages=2)
        self.targets = self.shelf.targets(self.snapshot)
        self.pins: list[set[str]] = [{"one"} for _ in self.targets]

    def run(self, awaitable):
        return self.loop.run(awaitable)

    async def opened(self):
        return Shelf(self.url, Path(self.folder.name))

    def teardown(self) -> None:
        self.run(self.shelf.close())
        self.loop.close()
        self.folder.cleanup()

    async def move(self, name, death):
        """Run a move in a process of its own, which may die of it."""
        archivist, control = self.shelf.another()
        client = archivist._client
        if death is not None:
            Steps(archivist).trips.crash_at = death
        lost: tuple = ()
        try:
            await getattr(archivist, name)([self.snapshot])
        except ArchivedObjectsLost as error:
            lost = error.lost
        except (StoreError, ConnectionError):
            assert death is not None
        finally:
            archivist.close()
            client.close()
            with contextlib.suppress(ConnectionError):
                await control.close()
        held = {t.ref for t, pins in zip(self.targets, self.pins, strict=True) if pins}
        assert not held.intersection(lost)

    @rule(death=DEATHS)
    def move_out(self, death):
        self.run(self.move("move_out", death))

    @rule(death=DEATHS)
    def bring_back(self, death):
        self.run(self.move("bring_back", death))

    @rule(which=WHICH, pin=PINS)
    def pin(self, which, pin):
        if self.shelf.pin(self.targets[which], pin):
            self.pins[which].add(pin)
        else:
            assert not self.pins[which]

    @rule(which=WHICH, pin=PINS)
    def unpin(self, which, pin):
        self.shelf.unpin(self.targets[which], pin)
        self.pins[which].discard(pin)

    @rule(which=WHICH, variant=st.integers(0, 1))
    def write(self, which, variant):
        self.shelf.write(self.targets[which], variant=variant)

    @rule(which=WHICH)
    def expire(self, which):
        """Time passes over what nobody holds, and over what is on its way back."""
        for key in self.targets[which].objects:
            if self.shelf.raw.ttl(key) != -1:
                self.shelf.raw.delete(key)

    @rule()
    def collect(self):
        self.run(self.shelf.settle())
        cold = [t for t in self.targets if self.shelf.raw.exists(t.cold)]
        assert len(self.shelf.files()) == RANKS * len(cold)

    @invariant()
    def what_is_held_can_be_loaded(self):
        for target, pins in zip(self.targets, self.pins, strict=True):
            if pins:
                for names, loaded in zip(target.names, self.shelf.load(target), strict=True):
                    assert loaded in [value_of(names, target.ref, v)[128:] for v in (0, 1)]
            else:
                assert not self.shelf.raw.exists(target.cold)
                assert all(self.shelf.raw.ttl(key) != -1 for key in target.objects)


def test_random_moves_and_deaths_lose_and_leak_nothing(server, monkeypatch):
    monkeypatch.setattr("state_store.archive.archivist.WORKERS", 1)
    Objects.url = server.url
    run_state_machine_as_test(
        Objects,
        settings=settings(
            max_examples=40,
            stateful_step_count=15,
            deadline=None,
            database=None,
            derandomize=True,
        ),
    )
