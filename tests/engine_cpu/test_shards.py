import pytest
import torch

from engine.cpu.shards import mamba_v2_sharded_weight_loader
from engine.cpu.threads import cores_of_ranks

HEADS, STATE, RANKS = 8, 3, 2


def refuse(*_):
    raise AssertionError("upstream's loader was asked")


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_group_that_all_ranks_share_is_copied_beside_each_ranks_heads(rank):
    """[x of all heads | B | C], one group, to two ranks."""
    checkpoint = torch.arange(HEADS + 2 * STATE).float()[:, None]
    spec = [(HEADS, 0, False), (RANKS * STATE, STATE, True), (RANKS * STATE, STATE, True)]
    share = torch.full((HEADS // RANKS + 2 * STATE, 1), -1.0)
    mamba_v2_sharded_weight_loader(refuse, spec, RANKS, rank)(share, checkpoint)
    heads = torch.arange(rank * HEADS // RANKS, (rank + 1) * HEADS // RANKS)
    groups = torch.arange(HEADS, HEADS + 2 * STATE)
    assert share[:, 0].tolist() == [*heads.tolist(), *groups.tolist()]


def test_groups_that_divide_evenly_are_left_to_sglang():
    spec = [(HEADS, 0, False), (RANKS * STATE, 0, False)]
    with pytest.raises(AssertionError, match="upstream's loader"):
        mamba_v2_sharded_weight_loader(refuse, spec, RANKS, 0)


@pytest.mark.parametrize(
    ("ranks", "cores", "named"),
    [(2, [0, 1], "0|1"), (2, [0, 1, 2, 3, 4], "0,1|2,3"), (3, [4, 9], "4|9|4")],
)
def test_ranks_get_cores_of_their_own_while_there_are_enough(ranks, cores, named):
    assert cores_of_ranks(ranks, cores) == named
