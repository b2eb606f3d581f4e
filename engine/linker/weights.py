"""The weights of an engine stay those that it was started with.

SGLang can change them while it runs. The fingerprint that this engine's state is stored under names
the checkpoint it was started with: state of other weights would be taken for that checkpoint's, by
this engine and by all others on the store. Runs in the engine's HTTP process, whose doors (HTTP,
gRPC, Python) all lead through here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from engine.patch import Kind, Patch

REFUSED = (
    "this engine stores sessions under the fingerprint of the weights that it was started with, so "
    "they cannot be changed while it runs. Nothing was changed. Start an engine for the other "
    "checkpoint; it may share the store."
)


async def change(
    original: Callable[..., Awaitable[Any]], tokenizer: Any, obj: Any, request: Any = None
) -> Any:
    """Refuse, before a running request is aborted for it."""
    if tokenizer.server_args.enable_unified_cache_external_linker:
        return False, REFUSED
    return await original(tokenizer, obj, request)


async def change_from_disk(
    original: Callable[..., Awaitable[Any]], tokenizer: Any, obj: Any, request: Any = None
) -> Any:
    """As `change`; its callers are told how many requests were paused, too."""
    if tokenizer.server_args.enable_unified_cache_external_linker:
        return False, REFUSED, 0
    return await original(tokenizer, obj, request)


async def check(
    original: Callable[..., Awaitable[Any]], tokenizer: Any, obj: Any, request: Any = None
) -> Any:
    """As `change`, where upstream's checker of weights is to change them; it also tells what it
    found, which is nothing."""
    changes = obj.action not in ("checksum", "snapshot", "compare")
    if changes and tokenizer.server_args.enable_unified_cache_external_linker:
        return False, REFUSED, None, None
    return await original(tokenizer, obj, request)


_TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
_CONTROL = "sglang.srt.managers.tokenizer_control_mixin.TokenizerControlMixin"
_REASON = "weights are changed in a running engine, whose state keeps the old ones' fingerprint"

PATCHES = (
    Patch(f"{_TOKENIZER}.update_weights_from_disk", Kind.AROUND, change_from_disk, _REASON),
    Patch(f"{_CONTROL}.check_weights", Kind.AROUND, check, _REASON),
    *(
        Patch(f"{_CONTROL}.{name}", Kind.AROUND, change, _REASON)
        for name in (
            "begin_weight_update",
            "update_weights_from_distributed",
            "update_weights_from_ipc",
            "update_weights_from_tensor",
        )
    ),
)
