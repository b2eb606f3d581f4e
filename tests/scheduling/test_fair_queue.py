"""Turns that wait are served fairly, whatever was queued."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.scheduling.queues import Ask, FairQueue, QueueFull

QUANTUM = 100
COSTS = st.lists(st.integers(1, 700), min_size=1, max_size=30)
BACKLOGS = st.dictionaries(st.sampled_from("abcd"), COSTS, min_size=1)


def ask(tenant, number, cost=50):
    return Ask(f"{tenant}{number}", tenant, tokens=cost, known=0, cost=cost, at=0.0)


def fair(limit=10_000, tenant_limit=10_000):
    return FairQueue(limit=limit, tenant_limit=tenant_limit, quantum=QUANTUM)


def filled(backlogs):
    queue = fair()
    for tenant, costs in backlogs.items():
        for number, cost in enumerate(costs):
            queue.put(ask(tenant, number, cost))
    return queue


def all_of(queue):
    while queue:
        yield queue.take()


@settings(derandomize=True, database=None, deadline=None)
@given(BACKLOGS)
def test_who_waits_all_the_time_gets_as_much_as_any_other(backlogs):
    largest = max(max(costs) for costs in backlogs.values())
    left = {tenant: len(costs) for tenant, costs in backlogs.items()}
    given_out = Counter()
    for one in all_of(filled(backlogs)):
        given_out[one.tenant] += one.cost
        left[one.tenant] -= 1
        waiting = [tenant for tenant, count in left.items() if count]
        for first, second in combinations(waiting, 2):
            assert abs(given_out[first] - given_out[second]) <= QUANTUM + 2 * largest


@settings(derandomize=True, database=None, deadline=None)
@given(BACKLOGS)
def test_every_turn_is_served_within_a_bound_that_others_queues_do_not_move(backlogs):
    largest = max(max(costs) for costs in backlogs.values())
    others, own = Counter(), Counter()
    for one in all_of(filled(backlogs)):
        own[one.tenant] += one.cost
        visits = -(-own[one.tenant] // QUANTUM) + 1
        assert others[one.tenant] <= (len(backlogs) - 1) * (visits * QUANTUM + largest)
        for tenant in backlogs:
            others[tenant] += one.cost if tenant != one.tenant else 0


@settings(derandomize=True, database=None, deadline=None)
@given(BACKLOGS)
def test_a_tenants_own_turns_are_served_in_their_order(backlogs):
    served = [one.session for one in all_of(filled(backlogs))]
    for tenant, costs in backlogs.items():
        mine = [name for name in served if name.startswith(tenant)]
        assert mine == [f"{tenant}{number}" for number in range(len(costs))]


def test_one_turn_too_many_is_refused_and_changes_nothing():
    queue = fair(limit=3, tenant_limit=2)
    queue.put(ask("a", 0))
    queue.put(ask("a", 1))
    with pytest.raises(QueueFull, match="2 turns of tenant a"):
        queue.put(ask("a", 2))
    queue.put(ask("b", 0))
    with pytest.raises(QueueFull, match="3 turns of all tenants"):
        queue.put(ask("c", 0))
    assert queue.waiting() == {"a": 2, "b": 1}
    assert sorted(one.session for one in all_of(queue)) == ["a0", "a1", "b0"]


def test_the_head_stays_the_head_until_it_is_taken():
    queue = fair()
    queue.put(ask("a", 0, cost=5 * QUANTUM))
    queue.put(ask("b", 0, cost=5 * QUANTUM))
    head = queue.head()
    queue.put(ask("c", 0, cost=1))
    assert queue.head() is head
    assert queue.take() is head


def test_a_turn_that_is_withdrawn_is_not_served():
    queue = fair()
    unwanted, wanted = ask("a", 0), ask("a", 1)
    queue.put(unwanted)
    queue.put(wanted)
    assert queue.remove(unwanted)
    assert not queue.remove(unwanted)
    assert list(all_of(queue)) == [wanted]
    assert queue.head() is None
