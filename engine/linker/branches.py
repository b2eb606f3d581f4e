"""A state where a prompt leaves a known path, and another where it ends.

SGLang's prefill leaves one state per chunk. Where a prompt leaves a path that the tree knows, it
leaves that state at the branch point, for the next that branches there, *instead of* at the end of
the prompt: the session could then only be restored from the branch point, and would compute up to a
chunk of its own tokens again. Here such a chunk ends at the branch point, and the rest of the
prompt, with a state at its end, is the next chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.patch import Kind, Patch


def select_prefill_admission(
    original: Callable[..., Any],
    adder: Any,
    req: Any,
    *,
    has_chunked_req: bool = False,
    **kwargs: Any,
) -> Any:
    """End the first chunk at the branch point, if one lies inside it."""
    from sglang.srt.managers.schedule_policy import AddReqResult, _PrefillAdmission

    if adder.new_chunked_req is not None:
        return AddReqResult.OTHER  # SGLang tracks one unfinished prompt; it usually fills the batch
    admission = original(adder, req, has_chunked_req=has_chunked_req, **kwargs)
    branch = branch_point(adder.tree_cache, req)
    if (
        not isinstance(admission, _PrefillAdmission)
        or branch is None
        or has_chunked_req
        or adder.rem_chunk_tokens is None
        or not admission.prefix_len < branch < admission.prefix_len + admission.extend_len
    ):
        return admission
    return replace(
        admission, extend_len=branch - admission.prefix_len, max_new_tokens=0, is_chunked=True
    )


def branch_point(tree: Any, req: Any) -> int | None:
    """How many of the request's tokens it shares with a known path that has no state there."""
    has_mamba = tree.is_mamba_enabled
    found: int | None = req.mamba_branching_seqlen if has_mamba else req.swa_branching_seqlen
    return found


PATCHES = (
    Patch(
        target="sglang.srt.managers.schedule_policy.PrefillAdder._select_prefill_admission",
        kind=Kind.AROUND,
        ours=select_prefill_admission,
        reason="a chunk that passes a branch point leaves no state at the prompt's end",
    ),
)
