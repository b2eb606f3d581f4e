"""What ranks find out from each other, in real processes over gloo."""

import pytest
import torch
from torch import distributed, multiprocessing

from engine.errors import UnsupportedLayout
from engine.linker.failures import FailedLoads
from engine.linker.layouts import require_alike
from engine.linker.ranks import Ranks

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
    landed = [failed.agree(None)]
    reasons = [failed.reason]
    error = ValueError(f"page {ranks.index}") if ranks.index != 1 else None
    landed.append(failed.agree(error))
    return {
        "any": ranks.any(missed),
        "each": ranks.each({"rank": ranks.index}),
        "landed": landed,
        "reasons": [*reasons, failed.reason],
    }


def test_all_ranks_come_to_the_same_decisions(tmp_path):
    answers = in_ranks(tmp_path, decide)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["any"] == [True, True, True, False]
    assert answers[0]["each"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    assert answers[0]["landed"] == [True, False]
    assert answers[0]["reasons"] == [None, "rank 0: page 0; rank 2: page 2"]


def test_one_rank_decides_by_itself():
    alone = Ranks()
    assert alone.any([True, False]) == [True, False]
    assert alone.each("value") == ["value"]
    failed = FailedLoads(alone)
    assert failed.agree(None)
    assert not failed.agree(OSError("gone"))
    assert failed.reason == "rank 0: gone"


def test_ranks_that_store_other_formats_are_refused_by_name():
    alike = {"weights": "a", "kv_dtype": "float32"}
    require_alike([alike, alike])
    with pytest.raises(UnsupportedLayout, match=r"rank 2 .* weights differ"):
        require_alike([alike, alike, alike | {"weights": "b"}])
