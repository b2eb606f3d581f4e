"""What a runtime remembers of sessions is bounded, and errs towards saying less."""

from agent_runtime.scheduling.residency import Residency

OLD, NEW = frozenset({"old"}), frozenset({"new"})


def test_sessions_that_were_not_served_for_long_are_let_go():
    left = []
    residency = Residency(remembered=3)
    residency.when_left(left.append)
    for n in range(5):
        residency.placed(f"s{n}", "boot")
        residency.writing_to(f"s{n}", OLD)
        residency.wrote(f"s{n}", 7)
        residency.placed("s0", "boot")  # is served again each time
    assert residency.sessions() == {"s0", "s3", "s4"}
    assert left == ["s1", "s2"]
    assert residency.place("s1") is None
    assert residency.count("boot") == 3


def test_one_that_an_engine_was_told_to_keep_is_not_let_go():
    residency = Residency(remembered=2)
    residency.held("kept", 600)
    for name in ("kept", "a", "b", "c"):
        residency.placed(name, "boot")
    assert residency.sessions() == {"kept", "c"}


def test_a_hold_ends_by_itself_or_by_word():
    residency = Residency(remembered=1)
    residency.held("short", 0.0)
    residency.held("long", 600)
    assert [residency.is_held(name) for name in ("short", "long", "never")] == [False, True, False]
    residency.let_go("long")
    assert not residency.is_held("long")
    residency.held("other", 600)
    assert set(residency._held) == {"other"}
    residency.placed("short", "boot")
    residency.placed("new", "boot")
    assert residency.sessions() == {"new"}


def test_the_sessions_of_an_engine_are_counted():
    residency = Residency()
    residency.placed("a", "one")
    residency.placed("b", "one")
    residency.shared("b", "fork")
    residency.placed("a", "two")  # moved
    residency.left("b")
    residency.left("b")
    assert [residency.count(boot) for boot in ("one", "two", "none")] == [1, 1, 0]


def test_what_is_over_leaves_nothing():
    residency = Residency()
    for name in ("a", "b"):
        residency.placed(name, "boot")
        residency.writing_to(name, OLD)
        residency.wrote(name, 7)
        assert residency.take_written(name) == 7
        residency.forget_servers(name)
        residency.left(name)
    assert not residency._known
    assert not residency._counts


def test_a_session_that_was_let_go_is_as_old_as_any():
    """So that a change of servers since is told of, once; with new sessions it is not."""
    residency = Residency(remembered=1)
    residency.writing_to("a", OLD)
    residency.writing_to("b", NEW)
    assert residency.servers("a") == OLD
    assert residency.written_since("a") is None  # what is written from now on
    assert residency.servers("b") == NEW
    residency.forget_servers("a")  # it was told
    assert residency.servers("a") == frozenset()
    residency.writing_to("a", NEW)
    assert residency.servers("a") == NEW
