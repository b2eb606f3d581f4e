"""Asking again for an answer that broke off, under one idempotency key: it is generated once.

    first   "The harb" ✕
    again   "The harbour is closed."      the caller is given "our is closed."

What was given is not taken back. If the runtime died before it had committed, the turn is run
again; should it be answered otherwise then, the error that broke it off is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from agent_runtime.sdk.errors import ApiError, ApiUnreachable, passes, pause_before
from agent_runtime.wire.turns import TurnResult


async def asked_again(
    ask: Callable[[], AsyncGenerator[str | TurnResult]], *, retries: int
) -> AsyncGenerator[str | TurnResult]:
    """The pieces of an answer and its result, from as many attempts as it takes.

    retries: attempts after the first
    Raises what the last attempt raised; at once what another attempt would not change.
    """
    given = ""
    broken: ApiError | ApiUnreachable | None = None
    for attempt in range(retries + 1):
        if broken is not None:
            await asyncio.sleep(pause_before(broken, attempt))
        said = ""
        try:
            async with contextlib.aclosing(ask()) as pieces:
                async for piece in pieces:
                    if isinstance(piece, TurnResult):
                        if broken is not None and not said.startswith(given):
                            raise broken
                        yield piece
                        return
                    said += piece
                    if broken is not None and not _agree(said, given):
                        raise broken
                    if new := said[len(given) :]:
                        given = said
                        yield new
            return
        except (ApiUnreachable, ApiError) as error:
            if error is broken or attempt == retries or not passes(error):
                raise
            broken = error


def _agree(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
