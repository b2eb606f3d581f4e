"""Which cores the ranks of an engine run on."""

from __future__ import annotations

import os
from collections.abc import Sequence

_VARIABLE = "SGLANG_CPU_OMP_THREADS_BIND"


def name_cores(ranks: int) -> None:
    """Give each of several ranks cores of its own, unless the environment says which.

    SGLang refuses more ranks than the machine has NUMA nodes unless it is told.
    """
    if ranks > 1:
        os.environ.setdefault(_VARIABLE, cores_of_ranks(ranks, sorted(os.sched_getaffinity(0))))


def cores_of_ranks(ranks: int, cores: Sequence[int]) -> str:
    """SGLang's notation, `0,1|2,3`: neighbouring cores for each rank, equally many; ranks take
    turns where there are fewer cores than ranks."""
    each = max(1, len(cores) // ranks)
    shares = [[cores[(rank * each + i) % len(cores)] for i in range(each)] for rank in range(ranks)]
    return "|".join(",".join(map(str, share)) for share in shares)
