"""What is held or waits to be stored leaves the requests that run the states that they need."""

import random
from functools import partial
from types import SimpleNamespace

import pytest

from engine.linker.device import Holds
from engine.linker.ranks import Ranks
from engine.linker.room import StateRoom
from engine.linker.steps import Steps
from engine.plan.device import SLOTS, WAITING


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_requests_find_their_states(seed):
    rng, running = random.Random(seed), 0
    slots, per_request = rng.randint(4, 200), rng.choice((3, 4, 5))
    slots = max(slots, per_request)
    room = StateRoom(slots, per_request, lambda: running)
    most = 0
    for _ in range(2000):
        match rng.choice(("begin", "end", "wait", "stored", "hold", "let go")):
            case "begin" if running < room.for_requests():
                running += 1
            case "end" if running:
                running -= 1
            case "wait" if room.for_storing():
                room.waiting += 1
            case "stored" if room.waiting:
                room.waiting -= 1
            case "hold" if room.for_holding():
                room.held += 1
            case "let go" if room.held:
                room.held -= 1
        most = max(most, running)
        assert per_request * running + room.waiting + room.held <= slots
        assert per_request <= slots - room.held
    assert 1 <= most <= room.most_requests


@pytest.mark.parametrize("requests", [1, 4, 29])
def test_a_device_full_of_requests_stores_states_all_the_same(requests):
    """With as many slots as the plan gives it."""
    running = 0
    room = StateRoom(SLOTS * requests + WAITING, SLOTS, lambda: running)
    while running < room.for_requests():
        running += 1
    assert running == room.most_requests == requests
    for _ in range(WAITING):
        assert room.for_storing()
        room.waiting += 1
    assert not room.for_storing()
    assert room.for_requests() == requests


def test_a_hold_that_is_renewed_in_the_step_in_which_it_ends_goes_on():
    locks = []
    child = SimpleNamespace(hash_value=["a", "b"], children={}, evicted=False, id=7)

    def lock(node_id):
        locks.append(node_id)
        return SimpleNamespace(to_dec_params=lambda: None)

    tree = SimpleNamespace(
        tree_core=SimpleNamespace(root_node=SimpleNamespace(children={0: child})),
        inc_lock_ref=lock,
        dec_lock_ref=lambda node_id, _: locks.remove(node_id),
    )
    holds = Holds(100, 100)
    steps = Steps(Ranks(), holds.due)
    holds.hold(tree, "session", ["a", "b"], 0.0)
    renewed = partial(holds.hold, name="session", hashes=["a", "b"], seconds=600)
    steps._waiting["0f"] = (renewed, SimpleNamespace(set_result=lambda _: None))
    steps.run(tree)
    assert holds.left("session") > 500
    assert locks == [7]
    holds.hold(tree, "session", ["a", "b"], 0.0)
    steps.run(tree)
    assert holds.left("session") is None
    assert locks == []
