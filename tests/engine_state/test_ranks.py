"""What ranks find out from each other, in real processes over gloo."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import zmq
from torch import distributed, multiprocessing

from engine.errors import UnsupportedLayout
from engine.linker.failures import FailedLoads
from engine.linker.layouts import require_alike
from engine.linker.ranks import Ranks
from engine.linker.steps import Steps, maybe_sleep

COUNT = 3


def run(rank, folder, work):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=COUNT
    )
    torch.save(work(Ranks(rank, COUNT, distributed.group.WORLD)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def in_ranks(folder, work):
    """What `work(ranks)` returns in each of three processes."""
    multiprocessing.spawn(run, args=(folder, work), nprocs=COUNT)
    return [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


def decide(ranks):
    missed = [ranks.index == place for place in range(COUNT + 1)]
    failed = FailedLoads(ranks)
    rids = ["one", "two", "three"]
    nothing = failed.agree(rids, {})
    mine = {} if ranks.index == 1 else {"two": f"page {ranks.index}"}
    if ranks.index == 2:
        mine["three"] = "late"
    some = failed.agree(rids, mine)
    return {
        "any": ranks.any(missed),
        "each": ranks.each({"rank": ranks.index}),
        "failed": [nothing, some],
        "reasons": failed.reasons,
    }


def walk(ranks):
    """At which of five steps something ran that each rank wants from a step of its own on."""
    ran, step = [], 0

    def due():
        return {"it": lambda _: ran.append(step)} if step >= ranks.index and not ran else {}

    steps = Steps(ranks, due)
    for step in range(5):  # noqa: B007 - `due` reads it
        steps.run(None)
    return ran


def test_all_ranks_come_to_the_same_decisions(tmp_path):
    answers = in_ranks(tmp_path, decide)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["any"] == [True, True, True, False]
    assert answers[0]["each"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    assert answers[0]["failed"] == [[], ["two", "three"]]
    assert answers[0]["reasons"] == {
        "two": "rank 0: page 0; rank 2: page 2",
        "three": "rank 2: late",
    }


def test_what_changes_the_device_is_done_by_all_ranks_in_the_same_step(tmp_path):
    assert in_ranks(tmp_path, walk) == [[2]] * COUNT


def test_a_thread_hears_what_became_of_the_work_it_asked_for():
    steps = Steps(Ranks(), dict)

    def fail(tree):
        raise LookupError(tree)

    with ThreadPoolExecutor() as threads:
        fine = threads.submit(steps.ask, "a", lambda tree: tree + 1, timeout=60)
        wrong = threads.submit(steps.ask, "b", fail, timeout=60)
        while not (fine.done() and wrong.done()):
            steps.run(41)
        assert fine.result() == 42
        assert isinstance(wrong.exception(), LookupError)
    with pytest.raises(TimeoutError):
        steps.ask("never", fail, timeout=0.01)
    steps.run(None)  # it is no longer waiting


def test_a_scheduler_that_sleeps_is_woken_by_work_for_its_next_step():
    sleeper = SimpleNamespace(poller=zmq.Poller())

    def sleep(sleeper):
        sleeper.poller.poll(60_000)

    steps, ran = Steps(Ranks(), dict), []
    for turn in (1, 2):
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(steps.ask, "a", ran.append, timeout=30)
            while len(ran) < turn:
                maybe_sleep(sleep, sleeper)
                steps.run(turn)
            asked.result()
    assert ran == [1, 2]


def test_one_rank_decides_by_itself():
    alone = Ranks()
    assert alone.any([True, False]) == [True, False]
    assert alone.each("value") == ["value"]
    failed = FailedLoads(alone)
    assert failed.agree(["a", "b"], {}) == []
    assert failed.agree(["a", "b"], {"b": "gone"}) == ["b"]
    assert failed.reasons == {"b": "rank 0: gone"}


def test_ranks_that_store_other_formats_are_refused_by_name():
    alike = {"weights": "a", "kv_dtype": "float32"}
    require_alike([alike, alike])
    with pytest.raises(UnsupportedLayout, match=r"rank 2 .* weights differ"):
        require_alike([alike, alike, alike | {"weights": "b"}])


def test_work_that_was_due_and_fails_is_told_of_and_ends_nothing(caplog):
    def fail(_):
        raise ValueError("no such node")

    ran = []
    Steps(Ranks(), lambda: {"over a": fail, "over b": ran.append}).run("tree")
    assert ran == ["tree"]
    assert "over a failed between two steps" in caplog.text
    assert "no such node" in caplog.text
