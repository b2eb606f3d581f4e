"""What the doors for frameworks have in common: they send conversations and read messages."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple

from agent_runtime.wire.events import Text, TurnEvent
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from tools.calls import ToolCall
from tools.coercion import typed
from tools.define import ToolSpec


class Said(NamedTuple):
    """A message, and what ties results to calls, which the model knows by their order.

    calls: ids of the message's calls; answers: id of the call whose result it is
    """

    message: Message
    calls: Sequence[str | None] = ()
    answers: str | None = None


def in_call_order(said: Sequence[Said]) -> list[Message]:
    """The messages, with results in the order of their calls."""
    ordered: list[Message] = []
    places: Mapping[str | None, int] = {}
    results: list[Said] = []
    for one in (*said, None):
        if one is not None and one.message.role == "tool":
            results.append(one)
            continue
        results.sort(key=lambda result: places.get(result.answers, len(places)))
        ordered += [result.message for result in results]
        results = []
        if one is not None:
            ordered.append(one.message)
            places = {call: place for place, call in enumerate(one.calls)}
    return ordered


def with_one_system_text(messages: Sequence[Message]) -> list[Message]:
    """System messages at the beginning become one."""
    first = next((n for n, one in enumerate(messages) if one.role != "system"), len(messages))
    texts = [one.content for one in messages[:first]]
    system = [Message(role="system", content="\n\n".join(texts))] if texts else []
    return [*system, *messages[first:]]


def typed_arguments(call: ToolCall, tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """Arguments as the tool's schema has them: the model writes strings."""
    schema = next((tool.parameters for tool in tools if tool.name == call.name), None)
    return dict(call.arguments) if schema is None else typed(call.arguments, schema)[0]


def untold(told: str, whole: str) -> str:
    """The rest of an answer's text. If its pieces told it otherwise, with blanks around it or a
    flaw that the result mends, there is none."""
    return whole[len(told) :] if whole.startswith(told) else ""


async def shown(events: AsyncGenerator[TurnEvent]) -> AsyncGenerator[str | TurnResult]:
    """What of an answer is to be seen, piece by piece, and then its result."""
    seen = ""
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, TurnResult):
                if rest := untold(seen, event.text):
                    yield rest
                yield event
            elif isinstance(event, Text):
                seen += event.text
                yield event.text
