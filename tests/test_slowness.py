"""Slow tests come last, and not at all once their time is over."""

import time

import pytest

INI = """
[pytest]
markers = slow
asyncio_default_fixture_loop_scope = function
"""
MODULE = """
import pytest

@pytest.mark.slow
def test_a_slow_one(): pass

def test_a_quick_one(): pass

@pytest.mark.parametrize("size", [1, pytest.param(1000, marks=pytest.mark.slow)])
def test_sizes(size): pass
"""
QUICK = ["test_a_quick_one", "test_sizes[1]"]
SLOW = ["test_a_slow_one", "test_sizes[1000]"]


@pytest.fixture
def run(pytester):
    pytester.makeini(INI)
    pytester.makepyfile(MODULE)

    def run(*options):
        return pytester.inline_run("-p", "tests.slowness", *options)

    return run


def names(run, when, outcome):
    reports = run.getreports("pytest_runtest_logreport")
    return [
        report.nodeid.rpartition("::")[2]
        for report in reports
        if (report.when, report.outcome) == (when, outcome)
    ]


@pytest.mark.parametrize("options", [(), (f"--slow-until={time.time() + 3600}",)])
def test_slow_ones_run_last(run, options):
    assert names(run(*options), "call", "passed") == QUICK + SLOW


def test_slow_ones_are_skipped_when_their_time_is_over(run):
    done = run(f"--slow-until={time.time() - 1}")
    assert names(done, "call", "passed") == QUICK
    assert names(done, "setup", "skipped") == SLOW
