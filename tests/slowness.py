"""Slow tests run after all others, and only while there is time."""

import time

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--slow-until",
        type=float,
        metavar="TIME",
        help="skip slow tests that have not begun by then (Unix time in seconds)",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=_is_slow)  # stable


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    until = item.config.getoption("slow_until")
    if until is not None and _is_slow(item) and time.time() > until:
        pytest.skip("no time left for slow tests")


def _is_slow(item):
    return item.get_closest_marker("slow") is not None
