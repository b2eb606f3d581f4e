"""Why stored state could not be loaded: agreed between the ranks, and told to the client.

A load fails on the rank that misses its share; SGLang then aborts the requests on all ranks, with
a message that has no reason in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from engine.linker.ranks import Ranks
from engine.patch import Kind, Patch

logger = logging.getLogger(__name__)


class FailedLoads:
    """What went wrong with the batch's loads, the same on every rank.

    reason: of the last load that failed, None before one has
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.reason: str | None = None

    def agree(self, error: BaseException | None) -> bool:
        """Whether the load that ended with `error` on this rank landed on all of them.

        Call it on every rank; see `Ranks`.
        """
        if not self._ranks.any([error is not None])[0]:
            return True
        reasons = self._ranks.each(None if error is None else str(error))
        self.reason = "; ".join(
            f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None
        )
        if self._ranks.index == 0:
            logger.error("stored state is not loaded, all ranks recompute: %s", self.reason)
        return False


def finish_external_linker_loads(original: Callable[..., Any], tree: Any, reqs: Any) -> Any:
    """Complete the message that the aborted requests end with."""
    failed = original(tree, reqs)
    for req in failed:
        req.discard_output_reason.message += f": {tree.linker.cache_linker.failed_loads.reason}"
    return failed


PATCHES = (
    Patch(
        target="sglang.srt.mem_cache.unified_radix_cache"
        ".UnifiedRadixCache.finish_external_linker_loads",
        kind=Kind.AROUND,
        ours=finish_external_linker_loads,
        reason="a failed load is reported to the client without its reason",
    ),
)
