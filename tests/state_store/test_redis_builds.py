"""The core of the store's tests, on Redis 7.0 and 8 instead of Valkey."""

from __future__ import annotations

import pytest
import test_commit
import test_crashes
import test_fork
import test_meetings
from servers import REDIS_7, REDIS_8, Server

pytestmark = pytest.mark.usefixtures("small_batches")

_CRASHES = (
    test_crashes.test_a_commit_that_dies_anywhere_leaves_the_old_head_or_the_new_one,
    test_crashes.test_a_delete_that_dies_anywhere_is_finished_or_has_not_happened,
    test_meetings.test_recovery_during_a_commit_ends_it_cleanly,
)
for _module in (test_commit, test_fork):
    globals().update({n: test for n, test in vars(_module).items() if n.startswith("test_")})
globals().update({test.__name__: test for test in _CRASHES})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(build, id=name, marks=pytest.mark.skipif(not build, reason="not installed"))
        for name, build in (("redis7", REDIS_7), ("redis8", REDIS_8))
    ],
)
def server(request, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("redis"), build=request.param) as running:
        yield running
