"""Places inside a prompt that somebody wants to come back to, from elsewhere.

    system, tools | message | message | answer
                  0         1         2          a mark of 1 is behind the first message

Other conversations that begin alike go on from there: what they share is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.messages.chat import ChatFormat, Message
from agent_runtime.messages.histories import History
from agent_runtime.models import TurnRequest
from agent_runtime.turns.outage import Standing
from tools.define import ToolSpec


def marks_of(
    chat: ChatFormat, before: Standing, asked: History, request: TurnRequest
) -> tuple[int, ...]:
    """Token counts, whole pages, up to which the prompt says what stands before each mark.

    before: the session when its turn began; asked: the prompt, all of it
    """
    history, page_size = before.history, before.engine.record.page_size
    base = len(history.tokens)
    places = set()
    for mark in request.marks:
        if mark >= len(request.messages) or (base and mark == 0):
            continue  # a prompt's or answer's end is a boundary anyway
        shown = _beginning(chat, before, request.messages, mark)
        places.add((base + _alike(shown, asked.tokens[base:])) // page_size * page_size)
    end = (len(asked.tokens) - 1) // page_size * page_size  # where a state is left in any case
    return tuple(sorted(place for place in places if history.boundary < place < end))


def _beginning(
    chat: ChatFormat, before: Standing, messages: Sequence[Message], mark: int
) -> list[int]:
    """A prompt that is the same up to the mark, and then ends or says nothing."""
    said = messages[:mark] or [Message(role=messages[0].role, content="")]
    known, session = before.history.tokens, before.session
    if known:
        return chat.delta(said, ended=known[-1] == chat.eos_id)
    return chat.opening(
        said,
        system=session.body.meta["system"],
        tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
    )


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids they begin with together."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
