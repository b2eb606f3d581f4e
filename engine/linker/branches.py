"""A state where a prompt leaves a known path or is marked, and another where it ends.

SGLang's prefill leaves one state per chunk. Where a prompt leaves a path that the tree knows, it
leaves that state at the branch point, for the next that branches there, *instead of* at the end of
the prompt: the session could then only be restored from the branch point, and would compute up to a
chunk of its own tokens again. Here such a chunk ends at the branch point, and the rest of the
prompt, with a state at its end, is the next chunk. So it is with a request's marks: places that its
client wants to come back to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.boundaries import hint_in
from engine.patch import Kind, Patch


def select_prefill_admission(
    original: Callable[..., Any],
    adder: Any,
    req: Any,
    *,
    has_chunked_req: bool = False,
    **kwargs: Any,
) -> Any:
    """End the first chunk at the branch point or mark, if one lies inside it."""
    from sglang.srt.managers.schedule_policy import AddReqResult, _PrefillAdmission

    if adder.new_chunked_req is not None:
        return AddReqResult.OTHER  # SGLang tracks one unfinished prompt; it usually fills the batch
    admission = original(adder, req, has_chunked_req=has_chunked_req, **kwargs)
    if (
        not isinstance(admission, _PrefillAdmission)
        or has_chunked_req
        or adder.rem_chunk_tokens is None
    ):
        return admission
    begin, end = admission.prefix_len, admission.prefix_len + admission.extend_len
    stops = [_mark(adder, req, begin, end), branch_point(adder.tree_cache, req)]
    inside = [stop for stop in stops if stop is not None and begin < stop < end]
    if not inside:
        return admission
    return replace(admission, extend_len=min(inside) - begin, max_new_tokens=0, is_chunked=True)


def add_chunked_req(original: Callable[..., Any], adder: Any, req: Any) -> Any:
    """End a later chunk at the next mark."""
    mark = _mark(adder, req, req.prefix_len, len(req.full_untruncated_fill_ids))
    if mark is None:
        return original(adder, req)
    limit = adder.chunked_req_limit
    most = mark - req.prefix_len
    adder.chunked_req_limit = most if limit is None else min(limit, most)
    try:
        return original(adder, req)
    finally:
        adder.chunked_req_limit = limit


def branch_point(tree: Any, req: Any) -> int | None:
    """How many of the request's tokens it shares with a known path that has no state there."""
    has_mamba = tree.is_mamba_enabled
    found: int | None = req.mamba_branching_seqlen if has_mamba else req.swa_branching_seqlen
    return found


def _mark(adder: Any, req: Any, after: int, before: int) -> int | None:
    """The next one between two counts of the request's tokens."""
    tree, hint = adder.tree_cache, hint_in(req.kv_hints)
    if hint is None or tree.linker is None:
        return None
    return hint.on(tree.linker.cache_linker.thinning.grid).next_mark(after, before)


PATCHES = (
    Patch(
        target="sglang.srt.managers.schedule_policy.PrefillAdder._select_prefill_admission",
        kind=Kind.AROUND,
        ours=select_prefill_admission,
        reason="a chunk that passes a branch point leaves no state at the prompt's end",
    ),
    Patch(
        target="sglang.srt.managers.schedule_policy.PrefillAdder.add_chunked_req",
        kind=Kind.AROUND,
        ours=add_chunked_req,
        reason="a chunk goes as far as there is room, and leaves its state there",
    ),
)
