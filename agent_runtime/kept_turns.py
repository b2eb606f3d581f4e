"""Turns that were answered while the store was gone, as who asked for them follows them.

    answered, kept ── the store is back ── asked for again under the same key: its snapshot is told
                  └── its runtime is gone, and the turn with it: it is said again, or an error

What is not kept and not committed is nowhere: the session does not know that it was said.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from agent_runtime.errors import StillRunning, TurnLost
from agent_runtime.sdk.errors import ApiError
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult

_PAUSES = (0.1, 0.3, 1.0, 3.0, 3.0, 3.0)  # seconds


class TakesTurns(Protocol):
    """The part of the SDK that is needed."""

    async def turn(self, session_id: str, messages: list[Message], **options: Any) -> TurnResult:
        """Append messages, generate, commit."""


class KeptTurn(BaseModel):
    """A request, as it was sent, and the token ids that it was answered with.

    key: of idempotency; options: fields of TurnRequest
    """

    model_config = ConfigDict(frozen=True)

    key: str
    messages: list[Message]
    options: dict[str, Any]
    said: list[int]


async def followed(
    client: TakesTurns, session_id: str, head: str | None, kept: Sequence[KeptTurn]
) -> tuple[str | None, list[KeptTurn]]:
    """The session's head after `kept` turns on `head`, as far as they are committed by now, and
    those that still wait for the store. Raises TurnLost, and what a turn raises."""
    waiting: list[KeptTurn] = []
    for turn in kept:
        result = await _asked_again(client, session_id, turn)
        require_taken(result)
        if result.token_ids != turn.said:
            raise TurnLost(
                f"a turn of {session_id} was answered while the store was gone, and its runtime "
                "ended before it was back. Said again, it was answered otherwise. Go back to "
                "before it, or begin again from the session as it is.",
                result,
            )
        if result.snapshot is None:
            waiting.append(turn)
        else:
            head = result.snapshot
    return head, waiting


async def _asked_again(client: TakesTurns, session_id: str, turn: KeptTurn) -> TurnResult:
    """What became of a turn. If its runtime is committing it right now, that is waited for."""
    ask = functools.partial(
        client.turn, session_id, turn.messages, idempotency_key=turn.key, **turn.options
    )
    for pause in _PAUSES:
        try:
            return await ask()
        except ApiError as error:
            if error.code != StillRunning.code:
                raise
            await asyncio.sleep(pause)
    return await ask()


def require_taken(result: TurnResult) -> None:
    """Raises TurnLost for a turn that was answered, and is neither committed nor kept."""
    if result.snapshot is None and not result.kept:
        raise TurnLost(
            f"a turn of {result.session_id} was answered and could not be committed: "
            f"{result.not_durable_because}. The session is as it was before, and does not know "
            "what was said. Say it again.",
            result,
        )
