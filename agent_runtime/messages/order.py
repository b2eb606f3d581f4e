"""Which messages a turn may bring."""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.errors import BadRequest
from agent_runtime.wire.messages import Message


def require_order(messages: Sequence[Message], *, waiting: int) -> None:
    """Results answer the calls of the message before them, in their order, and the last message is
    one that can be answered. Raises BadRequest.

    waiting: calls that the history ends with
    """
    for message in messages:
        if message.role != "tool":
            waiting = len(message.tool_calls)
        elif not waiting:
            raise BadRequest(
                "there are more tool results than calls that they could answer; the session is "
                "unchanged."
            )
        else:
            waiting -= 1
    if messages and messages[-1].role == "assistant":
        raise BadRequest(
            "a turn ends with what is to be answered, and this one with what an assistant has "
            "said; the session is unchanged."
        )
