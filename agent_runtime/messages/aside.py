"""Long texts are rendered and tokenized in a thread.

Tokenizers let go of the interpreter meanwhile, and the event loop serves everybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from agent_runtime.wire.messages import Message

LONG = 1 << 14  # characters, about as many milliseconds of a tokenizer as a thread is worth

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


async def aside(
    said: Iterable[Message],
    work: Callable[_Given, _Made],
    /,
    *args: _Given.args,
    **named: _Given.kwargs,
) -> _Made:
    """What `work` makes of what was said: here, or in a thread if that is long."""
    if sum(len(one.content) + len(one.reasoning) for one in said) < LONG:
        return work(*args, **named)
    return await asyncio.to_thread(work, *args, **named)
