"""Two hundred kills in the middle of loads and offloads, and not one wrong token.

Each kill waits for some bytes of payload to pass between an engine and its store, and strikes in
the middle of the next:

    of 200   what is killed              by
       114   the way to the store        the connection ends; often the next one as well
        80   the store                   kill -9; it starts again over its log
         6   the engine                  kill -9 of its processes; a new engine takes its name

Several sessions are restored at once meanwhile, some grow, some clients hang up, and bytes are
changed on their way. An answer counts as right if an engine gives it that may restore nothing.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from engine_cpu.server import MODEL, MTP, PAGE_SIZE

from engine.errors import EngineUnreachable, LoadFailed
from engine.pool import Engine, EnginePool
from state_store.embedded import EmbeddedServer
from state_store.errors import StoreUnavailable
from state_store.store import StateStore

from .linked import Answer, ask, chain, linked, random_tokens, used
from .trouble import Cut, TroubledStore

KILLS = {"path": 114, "store": 80, "engine": 6}
SESSIONS = 8
AT_ONCE = 3  # sessions that are restored in a round
NEW_TOKENS = 8
LONGEST = 20  # pages of a session that still grows
MARGIN = 1e-3  # of logprobs: closer ones may change places in another batch
STUCK_SECONDS = 120.0  # of a request, while nothing has to be started again
COMMAND_SECONDS = 20.0
# Loads of more than 8 pages go through the least staging memory in several windows.
SETTINGS = {"kv_staging_bytes": 1, "timeout": 2.0, "load_deadline": 2.0, "offload_queue_count": 16}


@pytest.fixture(scope="module")
def store_server(folder):
    """What it has acknowledged outlives its process: with `everysec` a write may wait for an fsync
    that is under way, which takes long on a busy disk, and is answered before it is made."""
    with EmbeddedServer(folder / "store", fsync="no") as server:
        yield server


@dataclass
class Session:
    prompt: list[int]
    answer: Answer


@dataclass
class Scene:
    """A store behind a proxy, an engine, and what has been killed of them.

    made: sessions, all of them; alive: those that are still asked
    """

    folder: object
    store_server: object
    trouble: TroubledStore
    opened: contextlib.AsyncExitStack
    rng: random.Random = field(default_factory=lambda: random.Random(4))
    kills: Counter = field(default_factory=Counter)
    seen: Counter = field(default_factory=Counter)
    made: list[Session] = field(default_factory=list)
    alive: list[Session] = field(default_factory=list)
    engine: Engine | None = None
    engine_is_down: bool = False
    store_is_down: bool = False

    async def start_engine(self):
        running = linked(MODEL, self.folder, self.trouble.url, *MTP, **SETTINGS)
        self.server = await asyncio.to_thread(self.opened.enter_context, running)
        (record,) = await self.pool.records()
        self.engine = await self.pool.with_boot(record.boot_id)
        self.engine_is_down = False
        self.restarted.set()

    async def begin(self):
        store = await StateStore.connect(self.store_server.url)
        self.pool = EnginePool(await self.opened.enter_async_context(store))
        self.opened.push_async_callback(self.pool.close)
        self.restarted = asyncio.Event()
        await self.start_engine()
        seed = 0
        while len(self.alive) < SESSIONS:
            prompt = random_tokens(seed, (4 + seed % 9) * PAGE_SIZE + 9)
            self.add(Session(prompt, await ask(self.engine, prompt, NEW_TOKENS)))
            seed += 1

    def add(self, session):
        """Unless another batch may round to other tokens; whether it was."""
        if session.answer.margin <= MARGIN:
            return False
        self.made.append(session)
        self.alive.append(session)
        return True

    # ---- killing ----

    def kill_path(self):
        self.kills["path"] += 1

    def kill_store(self):
        if not self.store_is_down:
            self.store_server.kill()
            self.kills["store"] += 1
            self.store_is_down = True

    def kill_engine(self):
        if not self.engine_is_down:
            self.engine_is_down = True  # who is cut off by it must know
            self.server.kill()
            self.kills["engine"] += 1

    def plan(self):
        """Set the traps of one round."""
        left = {kind: max(0, count - self.kills[kind]) for kind, count in KILLS.items()}
        kind = self.rng.choices(list(left), list(left.values()))[0]
        kill = getattr(self, f"kill_{kind}")
        for cuts in (self.trouble.reads, self.trouble.writes):
            # The second often comes before the connection that replaces the first is of use. An
            # engine takes long to start: once in a round is enough.
            for at in range(1 if kind == "engine" else self.rng.randint(1, 3)):
                cuts.append(Cut(self.rng.randrange((2 if at else 10) * self.page_bytes), kill))
        self.trouble.damaging = self.rng.choice([0, 0, 0, 1, 2])

    @property
    def page_bytes(self):
        return self.engine.record.kv_object_bytes

    async def mend(self):
        """Start again what has been killed; whether anything was."""
        store_was_down, engine_was_down = self.store_is_down, self.engine_is_down
        if store_was_down:
            await asyncio.to_thread(self.store_server.start)
            self.store_is_down = False
        if engine_was_down:
            await asyncio.to_thread(self.server.process.wait)
            await self.start_engine()
        return store_was_down or engine_was_down

    # ---- asking ----

    async def forget(self, sessions):
        """Have all of them stored, and none on the device; the engine knows where they are."""
        ready = []
        for session in sessions:
            hashes = chain(self.engine, session.prompt)
            await self.engine.settle(hashes, timeout=COMMAND_SECONDS)
            found = await self.engine.where(hashes, name="", timeout=COMMAND_SECONDS)
            assert found.stored.pages >= found.device.pages
            assert set(found.stored.states) >= set(found.device.states)
            ready.append(hashes[: max(found.stored.states, default=0)])
        if self.rng.random() < 0.5:
            await self.leave_nothing()
        for hashes in filter(None, ready):
            await self.engine.drop(hashes, timeout=COMMAND_SECONDS)
            await self.engine.announce(hashes, timeout=COMMAND_SECONDS)
        while (await self.status())["loads_from_host_only"]:
            pass

    async def status(self):
        (status,) = await self.engine.status(timeout=COMMAND_SECONDS)
        return status

    async def answered(self, session, *, staged):
        """As the runtime does it: what cannot be loaded is asked for again, and computed at last;
        an engine that dies is replaced."""
        loads = 0
        while True:
            engine, down = self.engine, self.restarted
            try:
                if staged:
                    with contextlib.suppress(EngineUnreachable, StoreUnavailable):
                        await engine.prefetch(chain(engine, session.prompt), timeout=5.0)
                answer = await ask(engine, session.prompt, NEW_TOKENS, restore=loads < 2)
            except LoadFailed:
                assert loads < 2, "a request that loads nothing cannot fail to load"
                self.seen["failed loads"] += 1
                loads += 1
            except EngineUnreachable:
                if engine is self.engine:
                    assert self.engine_is_down, "it died by itself"
                    await down.wait()
                loads = 0
            else:
                self.seen["restored"] += answer.cached > 0
                self.seen["restored tokens"] += answer.cached
                return answer

    async def grow(self, session):
        """A further turn, or another session in its place."""
        pages = len(session.prompt) // PAGE_SIZE
        tail = random_tokens(self.rng.randrange(1 << 30), self.rng.randrange(20, 4 * PAGE_SIZE))
        prompt = session.prompt + session.answer.ids + tail if pages < LONGEST else tail * 4
        answer = await self.answered(Session(prompt, session.answer), staged=False)
        if not self.add(Session(prompt, answer)):
            self.alive.append(session)

    async def hang_up(self, session):
        """A client that does not wait for its answer."""
        with contextlib.suppress(TimeoutError, LoadFailed, EngineUnreachable):
            async with asyncio.timeout(self.rng.random()):
                await ask(self.engine, session.prompt, NEW_TOKENS)

    async def round(self):
        chosen = self.rng.sample(self.alive, AT_ONCE + 2)
        await self.forget(chosen)
        self.plan()
        restoring, (growing, leaving) = chosen[:AT_ONCE], chosen[AT_ONCE:]
        self.alive.remove(growing)
        asking = [
            asyncio.create_task(self.answered(session, staged=self.rng.random() < 0.3))
            for session in restoring
        ]
        others = [
            asyncio.create_task(self.grow(growing)),
            asyncio.create_task(self.hang_up(leaving)),
        ]
        pending = {*asking, *others}
        moved = time.monotonic()
        while pending:
            self.restarted.clear()
            done, pending = await asyncio.wait(pending, timeout=0.05)
            if await self.mend() or done:
                moved = time.monotonic()
            assert time.monotonic() - moved < STUCK_SECONDS, "a request is stuck"
        self.trouble.leave_alone()
        await self.mend()
        for task, session in zip(asking, restoring, strict=True):
            assert task.result().ids == session.answer.ids
        for task in others:
            task.result()

    async def require_truth(self):
        """Compare all answers with those of the engine when it restores nothing."""
        loaded = (await self.status())["objects_loaded"]
        for start in range(0, len(self.made), AT_ONCE):
            some = self.made[start : start + AT_ONCE]
            truths = await asyncio.gather(
                *(ask(self.engine, one.prompt, NEW_TOKENS, restore=False) for one in some)
            )
            assert [truth.ids for truth in truths] == [one.answer.ids for one in some]
        assert (await self.status())["objects_loaded"] == loaded

    async def leave_nothing(self):
        """Empty the engine; whatever it still counts as used has leaked.

        Whenever it idles its scheduler counts its pools, and ends the engine if a slot is missing.
        """
        await self.engine.client.flush()
        assert await used(self.server) == (0, 0, 0)
        status = await self.status()
        assert (status["offloads_waiting"], status["objects_pinned"]) == (0, 0)
        assert self.server.process.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_two_hundred_kills_give_no_wrong_token_no_stuck_request_and_no_leaked_slot(
    folder, store_server
):
    trouble = TroubledStore(folder / "trouble.sock", store_server.url)
    async with contextlib.AsyncExitStack() as opened:
        opened.callback(trouble.close)
        scene = Scene(folder, store_server, trouble, opened)
        await scene.begin()
        while any(scene.kills[kind] < count for kind, count in KILLS.items()):
            await scene.round()
        await scene.leave_nothing()
        assert scene.seen["failed loads"] > 10
        assert scene.seen["restored"] > 50
        assert trouble.damaged > 5
        await scene.require_truth()
        await scene.leave_nothing()
