"""How many requests an engine has, all of them.

SGLang's `/v1/loads` counts requests that wait and requests that decode. One whose prompt is being
computed in chunks, and one that is on its way between the processes, is neither; who looks then
would take a busy engine for an idle one, and end it. Runs in the engine's HTTP process, which knows
every request that has not been answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from engine.patch import Kind, Patch


async def get_loads(
    original: Callable[..., Awaitable[list[Any]]],
    tokenizer: Any,
    include: list[str] | None = None,
    dp_rank: int | None = None,
) -> list[Any]:
    """Count what no rank counts as waiting at the first one."""
    loads = await original(tokenizer, include=include, dp_rank=dp_rank)
    if dp_rank is None and loads:
        counted = sum(load.num_running_reqs + load.num_waiting_reqs for load in loads)
        loads[0].num_waiting_reqs += max(0, len(tokenizer.rid_to_state) - counted)
    return loads


PATCHES = (
    Patch(
        target="sglang.srt.managers.tokenizer_control_mixin.TokenizerControlMixin.get_loads",
        kind=Kind.AROUND,
        ours=get_loads,
        reason="a prompt that is being computed in chunks counts neither as running nor as waiting",
    ),
)
