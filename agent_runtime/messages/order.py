"""Which messages a turn may bring."""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.errors import BadRequest
from agent_runtime.wire.messages import Message


def require_order(messages: Sequence[Message], *, waiting: int | None) -> None:
    """All calls of a message are answered, in their order, before anything else is said, and the
    last message is one that can be answered. Raises BadRequest.

    Only of the history's calls none may be answered: they may have broken off, and a user says
    something else.
    waiting: calls that the history ends with; None if it cannot be read: then they are for the
             client to know
    """
    if messages and messages[0].role != "tool":
        waiting = 0
    for message in messages:
        if message.role != "tool":
            _require_answered(waiting)
            waiting = len(message.tool_calls)
        elif waiting == 0:
            raise BadRequest(
                "there are more tool results than calls that they could answer; the session is "
                "unchanged."
            )
        elif waiting is not None:
            waiting -= 1
    if messages and messages[-1].role == "assistant":
        raise BadRequest(
            "a turn ends with what is to be answered, and this one with what an assistant has "
            "said; the session is unchanged."
        )
    _require_answered(waiting)


def require_appendable(messages: Sequence[Message]) -> None:
    """Each says what one of its role can say. Raises BadRequest."""
    for message in messages:
        if message.role not in ("user", "tool", "assistant"):
            raise BadRequest(
                f"role {message.role!r} cannot be appended; a turn takes user, tool and assistant "
                "messages."
            )
        if message.tool_calls and message.role != "assistant":
            raise BadRequest(f"a {message.role} message cannot call tools.")
        if message.reasoning and message.role != "assistant":
            raise BadRequest(f"a {message.role} message has no reasoning.")


def _require_answered(waiting: int | None) -> None:
    if waiting:
        raise BadRequest(
            f"{waiting} calls have no result before something else is said: the model knows "
            "results by their order. The session is unchanged. Give every call a result, if only "
            "that it was not made."
        )
