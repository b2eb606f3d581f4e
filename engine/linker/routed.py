"""Requests that come through a router: the engine's side of `engine/routing.py`.

Runs in the engine's HTTP process, before SGLang looks at the request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from engine.patch import Kind, Patch
from engine.routing import BOOT_ID, taken_out


async def generate_request(
    original: Callable[..., AsyncIterator[Any]], tokenizer: Any, obj: Any, request: Any = None
) -> AsyncIterator[Any]:
    """Put what the request carries where SGLang expects it, and say in each output who gave it."""
    carried = taken_out(getattr(obj, "extra_key", None))
    if carried is not None:
        obj.cache_salt, obj.session_id = carried
        obj.extra_key = None
    config = tokenizer.server_args.unified_cache_external_linker_config or {}
    boot_id = config.get("linker_extra_config", {}).get("boot_id")
    async for output in original(tokenizer, obj, request):
        if isinstance(output, dict) and "meta_info" in output:
            output["meta_info"][BOOT_ID] = boot_id
        yield output


PATCHES = (
    Patch(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request",
        kind=Kind.AROUND,
        ours=generate_request,
        reason="a router drops the tenant's salt and the session, and hides which engine served",
    ),
)
