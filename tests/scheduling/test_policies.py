"""Who leaves first, in cases worked out by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.policies import POLICIES, FlopsPerByte, Idle, LeastRecentlyUsed, ToolTime
from agent_runtime.scheduling.tool_times import ToolTimes
from agent_runtime.settings import SchedulingSettings

BASE = Idle(
    session="",
    tenant="a",
    tool="search",
    since=0.0,
    tokens=100,
    states=2,
    held=1000,
    recompute=1000.0,
    kept_until=0.0,
    returns_at=None,
)


def idle(session, **changes):
    return replace(BASE, session=session, **changes)


def order(policy, *sessions, now=100.0):
    return "".join(one.session for one in policy.leaving(sessions, now))


def test_lru_lets_go_of_who_waits_longest():
    assert order(LeastRecentlyUsed(), idle("x", since=3), idle("y", since=1), idle("z")) == "zyx"


def test_tool_time_keeps_who_is_expected_back_and_of_those_the_soonest():
    old = idle("o", since=1, kept_until=200, returns_at=101)
    later = idle("l", since=2, kept_until=200, returns_at=150)
    lapsed = idle("e", since=50, kept_until=99, returns_at=98)
    never = idle("n", since=60)
    assert order(ToolTime(), old, later, lapsed, never) == "enlo"


def test_flops_per_byte_keeps_what_is_dear_to_compute_for_what_it_holds():
    long = idle("l", since=1, held=2000, recompute=9000.0)
    short = idle("s", since=1, held=1000, recompute=1000.0)
    assert order(FlopsPerByte(), long, short) == "sl"
    recent = replace(short, session="r", since=90)
    assert order(FlopsPerByte(alpha=0.1), long, recent) == "lr"
    assert order(FlopsPerByte(alpha=10.0), long, recent) == "rl"


def test_a_tool_is_waited_for_as_long_as_that_is_worth_its_reload():
    policy = ToolTime()
    quick_mostly = [1.0, 1.0, 1.0, 100.0]
    assert policy.patience(quick_mostly, reload=9.0, share=0.1) == 1.0  # not for the straggler
    assert policy.patience(quick_mostly, reload=10.0, share=0.01) == 100.0  # nobody needs the room
    assert policy.patience([50.0, 60.0], reload=1.0, share=0.5) == 0.0
    assert policy.patience([], reload=10.0, share=0.01) == 0.0
    assert LeastRecentlyUsed().patience(quick_mostly, reload=10.0, share=0.1) == 0.0


@settings(derandomize=True, database=None, deadline=None)
@given(
    durations=st.lists(st.floats(0.01, 1000), min_size=1, max_size=20),
    reload=st.floats(0.01, 100),
    share=st.floats(0.001, 1),
)
def test_no_other_ttl_is_worth_more(durations, reload, share):
    def worth(ttl):
        back = sum(one <= ttl for one in durations)
        held = sum(min(one, ttl) for one in durations)
        return (back * reload - share * held) / len(durations)

    durations.sort()
    chosen = ToolTime().patience(durations, reload=reload, share=share)
    best = max(0.0, *(worth(ttl) for ttl in durations))
    assert (worth(chosen) if chosen else 0.0) == pytest.approx(best, abs=1e-6 + 1e-9 * reload)


def test_times_are_learned_per_tenant_and_tool_and_forgotten_in_time():
    times = ToolTimes(samples=4, tools=2)
    for seconds in (9.0, 1.0, 2.0, 3.0, 4.0):
        times.saw("a", "search", seconds)
    assert times.durations("a", "search") == [1.0, 2.0, 3.0, 4.0]
    assert times.quantile("a", "search", 0.25) == 2.0
    assert times.quantile("b", "search", 0.25) is None
    times.saw("a", "tests", 60.0)
    times.saw("b", "search", 5.0)
    assert times.durations("a", "search") == ()


def test_settings_name_a_policy_or_are_refused():
    for name, kind in POLICIES.items():
        assert type(SchedulingSettings(policy=name).make_policy()) is kind
    with pytest.raises(ValueError, match="choose from lru, tool_time, flops_per_byte"):
        SchedulingSettings(policy="fifo")
