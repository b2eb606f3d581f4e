"""Why stored state could not be loaded: agreed between the ranks, and told to the client.

A load fails on the rank that misses its share. Upstream then aborts every request of the batch that
loads, on all ranks, with a message that has no reason in it. The slots that a request loads into
are its own, so here only those requests are aborted that miss something, on any rank.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.linker.ranks import Ranks
from engine.patch import Kind, Patch

logger = logging.getLogger(__name__)


class FailedLoads:
    """What went wrong with the loads of the last batch, the same on every rank.

    reasons: request id -> why its state could not be loaded
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.reasons: dict[str, str] = {}

    def agree(self, rids: Sequence[str], failed: Mapping[str, str]) -> list[str]:
        """Which of the batch's loading requests miss something on any rank.

        rids: all of them, in an order that the ranks share; failed: those that failed on this one.
        Call it on every rank; see `Ranks`.
        """
        self.reasons = {}
        failing = self._ranks.any([rid in failed for rid in rids])
        if not any(failing):
            return []
        by_rank = self._ranks.each(dict(failed))
        for rid in (rid for rid, fails in zip(rids, failing, strict=True) if fails):
            self.reasons[rid] = "; ".join(
                f"rank {rank}: {reasons[rid]}"
                for rank, reasons in enumerate(by_rank)
                if rid in reasons
            )
            if self._ranks.index == 0:
                logger.error("%s is to be recomputed on all ranks: %s", rid, self.reasons[rid])
        return list(self.reasons)


def finish_loads(original: Callable[..., Any], wrapper: Any) -> list[str]:
    """The requests whose state did not land, instead of all that were loading."""
    loading = list(wrapper.inflight_load_rids)
    original(wrapper)
    linker = wrapper.cache_linker
    agreed: list[str] = linker.failed_loads.agree(loading, linker.take_failed_loads())
    return agreed


def finish_external_linker_loads(original: Callable[..., Any], tree: Any, reqs: Any) -> Any:
    """Complete the message that the aborted requests end with; the others keep what they loaded."""
    failed = original(tree, reqs)
    for req in failed:
        reason = tree.linker.cache_linker.failed_loads.reasons[req.rid]
        req.discard_output_reason.message += f": {reason}"
    if tree.linker is not None:
        tree.linker.cache_linker.restored.keep(tree, reqs, failed)
    return failed


PATCHES = (
    Patch(
        target="sglang.srt.mem_cache.unified_cache.unified_cache_linker"
        ".UnifiedCacheLinkerWrapper.finish_loads",
        kind=Kind.AROUND,
        ours=finish_loads,
        reason="one load that fails aborts every loading request of its batch",
    ),
    Patch(
        target="sglang.srt.mem_cache.unified_radix_cache"
        ".UnifiedRadixCache.finish_external_linker_loads",
        kind=Kind.AROUND,
        ours=finish_external_linker_loads,
        reason="a failed load is reported to the client without its reason; see also `restored.py`",
    ),
)
