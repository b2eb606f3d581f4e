"""The ranks of one engine, and what they find out from each other.

Each rank's scheduler runs the same steps in the same order over its own share of the heads, and
stores its own share. What steers those steps has to be the same on all of them, but a lookup, a
load or an offload may end otherwise on each. So before a scheduler acts on one, the ranks agree,
over SGLang's CPU group and at a point that all of them reach.

Upstream agrees on three things by itself: which prefixes can be restored (those that all ranks
can), whether a load landed (on all), which offloads are done (on all) and well (on all). Ours are
in `offers.py`, `failures.py` and the linker's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks that share attention heads and states.

    index: 0 to count - 1; group: of CPU tensors, None with one rank

    Every method but `of` is to be called by all ranks, in the same order, from the scheduler's
    thread.
    """

    index: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def of(cls, params: Any) -> Ranks:
        """params: SGLang's `CacheInitParams`."""
        group = params.attn_tp_cache_group or params.tp_cache_group
        if group is None or not distributed.is_initialized():
            return cls()
        count = distributed.get_world_size(group)
        return cls(distributed.get_rank(group), count, group) if count > 1 else cls()

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Whether any rank's flag is set, place by place. All pass equally many."""
        if self.count == 1 or not flags:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int8)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX, self.group)
        return [bool(flag) for flag in raised.tolist()]

    def each(self, value: Any) -> list[Any]:
        """Every rank's value, by rank. Values are pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, self.group)
        return values
