"""Telling apart what a model generates: reasoning, text, calls of tools."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

from agent_runtime.wire.events import Reasoning, Text, TurnEvent, called
from tools.calls import ToolCall
from tools.formats import CallParser
from tools.tool import ToolSpec


async def read(
    pieces: AsyncGenerator[str], format: str, *, thinking: bool, tools: Sequence[ToolSpec]
) -> AsyncGenerator[TurnEvent]:
    """Events of generated text, each as soon as it is certain.

    format: of calls, see `ChatFormat.calls`; thinking: the prompt has opened the thinking already;
    tools: that were declared to the model

    Joined, they are what `tools.formats.parse` makes of the whole, but for bent messages: see
    `CallParser.read`. The turn's result has those right.
    """
    parser = CallParser(format, tools=tools, thinking=thinking)
    text = reasoning = ""
    calls = 0
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            fresh = parser.read(piece)
            text, reasoning, calls = (
                text + fresh.text, reasoning + fresh.reasoning, calls + len(fresh.calls),
            )  # fmt: skip
            for event in _events(fresh.reasoning, fresh.text, fresh.calls):
                yield event
    whole = parser.finish(cut_off=True)
    rest = _events(
        _after(reasoning, whole.reasoning), _after(text, whole.text), whole.calls[calls:]
    )
    for event in rest:
        yield event


def _events(reasoning: str, text: str, calls: tuple[ToolCall, ...]) -> list[TurnEvent]:
    events: list[TurnEvent] = []
    if reasoning:
        events.append(Reasoning(text=reasoning))
    if text:
        events.append(Text(text=text))
    return [*events, *map(called, calls)]


def _after(told: str, whole: str) -> str:
    return whole[len(told) :] if whole.startswith(told) else ""
