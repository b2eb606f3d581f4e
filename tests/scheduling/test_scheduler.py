"""What the scheduler never does, whatever happens in whatever order."""

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.policies import POLICIES, LeastRecentlyUsed, ToolTime
from agent_runtime.scheduling.queues import Ask, FairQueue, QueueFull
from agent_runtime.scheduling.scheduler import Prefetch, Scheduler, Start, Suspend, Where
from agent_runtime.scheduling.sizes import Capacity, Sizes

CAPACITY = Capacity(
    running=3, states=20, tokens=4000, running_states=5, idle_states=2, staging_bytes=1 << 30
)
SIZES = Sizes(state=1000, kv_per_token=10, linear=2.0, quadratic=0.01, load_bandwidth=1000.0)


def scheduler(policy, capacity=CAPACITY, **options):
    queue = FairQueue(limit=64, tenant_limit=48, quantum=200)
    return Scheduler(capacity, SIZES, policy, queue, **options)


def ask(session, at=0.0, *, tokens=400, known=0, tenant="a"):
    return Ask(session, tenant, tokens=tokens, known=known, cost=100, at=at)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "finish", "finish", "fail", "leave", "withdraw", "pass"]),
        st.integers(0, 11),  # which session
        st.integers(1, 6000),  # tokens that the turn adds: some more than the device has
        st.sampled_from(["", "search", "tests"]),
    ),
    max_size=120,
)


class World:
    """Does what the scheduler decides, and knows itself what is the case."""

    def __init__(self, policy):
        self.scheduler = scheduler(policy)
        self.now = 0.0
        self.queued: dict[str, Ask] = {}
        self.running: dict[str, Ask] = {}
        self.tokens: dict[str, int] = {}
        self.resident: set[str] = set()
        self.asked = self.started = self.withdrawn = 0

    def happen(self, kind, number, added, tool):
        session = f"s{number}"
        self.now += 0.5
        if kind == "ask" and session not in self.queued and session not in self.running:
            known = self.tokens.get(session, 0)
            wanted = ask(
                session, self.now, tokens=known + added, known=known, tenant="abc"[number % 3]
            )
            try:
                self.scheduler.submit(wanted)
            except QueueFull:
                return
            self.queued[session] = wanted
            self.asked += 1
        elif kind == "finish" and session in self.running:
            self.tokens[session] = self.running.pop(session).tokens
            self.scheduler.finished(session, self.now, tokens=self.tokens[session], tool=tool)
            self.resident.add(session)
        elif kind == "fail" and session in self.running:
            del self.running[session]
            self.scheduler.failed(session, self.now)
        elif kind == "leave" and session not in self.running:
            self.scheduler.left(session)
            self.resident.discard(session)
        elif kind == "withdraw" and session in self.queued:
            assert self.scheduler.withdraw(self.queued.pop(session))
            self.withdrawn += 1
        elif kind == "pass":
            self.now += added / 100

    def step(self):
        for action in self.scheduler.step(self.now):
            if isinstance(action, Suspend):
                assert action.session in self.resident, "only who is idle on the device leaves it"
                self.resident.remove(action.session)
            elif isinstance(action, Start):
                session = action.ask.session
                assert self.queued.pop(session) == action.ask, "each turn starts once"
                assert (action.where is Where.DEVICE) == (session in self.resident)
                self.resident.discard(session)
                self.running[session] = action.ask
                self.started += 1
            elif isinstance(action, Prefetch):
                assert action.session not in self.resident | self.running.keys()

    def check(self):
        states, tokens = self.scheduler.used
        assert states <= CAPACITY.states
        assert tokens <= CAPACITY.tokens
        assert self.scheduler.running == len(self.running) <= CAPACITY.running
        assert set(self.scheduler.resident) == self.resident
        assert states == 5 * len(self.running) + 2 * len(self.resident)
        assert len(self.scheduler.queue) == len(self.queued)


@pytest.mark.parametrize("name", POLICIES)
@settings(derandomize=True, database=None, deadline=None)
@given(events=EVENTS)
def test_no_capacity_is_exceeded_and_no_turn_is_lost_doubled_or_left_waiting(name, events):
    world = World(POLICIES[name]())
    for event in events:
        world.happen(*event)
        world.step()
        world.check()
    # With everybody who runs ending, all who wait are served: as many rounds as turns at most.
    for _ in range(len(world.queued)):
        for session in list(world.running):
            world.happen("finish", int(session[1:]), 1, "search")
        world.step()
        world.check()
    assert not world.queued
    assert world.started + world.withdrawn == world.asked


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 6))
def test_lru_is_lru(order, room):
    capacity = Capacity(
        running=1,
        states=5 + 2 * room,
        tokens=10**9,
        running_states=5,
        idle_states=2,
        staging_bytes=0,
    )
    tested = scheduler(LeastRecentlyUsed(), capacity)
    expected: OrderedDict[str, None] = OrderedDict()
    for now, number in enumerate(order):
        session = f"s{number}"
        hit = session in expected
        expected.pop(session, None)
        evicted = []
        while len(expected) > room:
            evicted.append(expected.popitem(last=False)[0])
        tested.submit(ask(session, now, known=1))
        *suspended, start = tested.step(now)
        assert [action.session for action in suspended] == evicted
        assert (start.where is Where.DEVICE) == hit
        tested.finished(session, now, tokens=400)
        expected[session] = None
        assert list(tested.resident) == list(expected)


def test_a_session_is_fetched_before_its_tool_is_expected_back():
    one = Capacity(
        running=1, states=6, tokens=4000, running_states=5, idle_states=2, staging_bytes=1 << 20
    )
    tested = scheduler(LeastRecentlyUsed(), one)
    now = 0.0
    for _ in range(8):  # it learns that a search takes 60 s
        tested.submit(ask("s", now, known=1))
        tested.step(now)
        tested.finished("s", now, tokens=400, tool="search")
        now += 60.0
    tested.submit(ask("s", now, known=400))
    tested.step(now)
    tested.finished("s", now, tokens=400, tool="search")
    tested.submit(ask("other", now + 1))
    assert [type(action) for action in tested.step(now + 1)] == [Suspend, Start]
    wake = tested.wake_at()
    load = (SIZES.state + 400 * SIZES.kv_per_token) / SIZES.load_bandwidth
    assert wake == pytest.approx(now + 60 - load)
    assert tested.step(wake - 0.1) == []
    assert tested.step(wake) == [Prefetch("s", 400)]
    tested.finished("other", now + 59, tokens=10)
    tested.submit(ask("s", now + 60, known=400))
    (start,) = (a for a in tested.step(now + 60) if isinstance(a, Start))
    assert start.where is Where.STAGED


def test_nothing_is_fetched_for_who_is_still_there_or_unknown():
    tested = scheduler(ToolTime())
    for now in (0.0, 10.0):
        tested.submit(ask("s", now))
        tested.step(now)
        tested.finished("s", now, tokens=400, tool="search")
    assert tested.wake_at() is not None
    assert tested.step(100.0) == []
    assert tested.wake_at() is None


def test_the_wait_that_is_asked_for_grows_with_the_queue():
    tested = scheduler(LeastRecentlyUsed())
    for number in range(3):
        tested.submit(ask(f"s{number}"))
    tested.step(0.0)
    tested.finished("s0", 200.0, tokens=400)
    short = tested.retry_after()
    for number in range(3, 40):
        tested.submit(ask(f"s{number}", 200.0))
    assert 1.0 <= short < tested.retry_after() <= 60.0


def test_a_device_that_fits_no_turn_is_refused():
    with pytest.raises(ValueError, match="no turn fits"):
        Capacity(running=4, states=3, tokens=100, running_states=5, idle_states=2, staging_bytes=0)
