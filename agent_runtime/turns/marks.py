"""Places inside a prompt that somebody wants to come back to, from elsewhere.

    system, tools | message | message | answer
                  0         1         2          a mark of 1 is behind the first message

Other conversations that begin alike go on from there: what they share is computed once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import History
from agent_runtime.turns.outage import Standing
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from tools.define import ToolSpec


def marks_of(
    chat: ChatFormat, before: Standing, asked: History, request: TurnRequest
) -> tuple[int, ...]:
    """Token counts, whole pages, up to which the prompt says what stands before each mark.

    before: the session when its turn began; asked: the prompt, all of it
    """
    history, page_size = before.history, before.engine.record.page_size
    base = len(history.tokens)
    # A prompt's or answer's end is a boundary anyway.
    wanted = {m for m in request.marks if m < len(request.messages) and (m or not base)}
    if not wanted:
        return ()
    prompt = _shown(chat, before, request, request.messages)
    ids, ends = chat.encode_with_ends(prompt)
    alike = _alike(ids, asked.tokens[base:])  # all of it, unless the template shows it otherwise
    places = set()
    for mark in wanted:
        # A prompt that is the same up to the mark, and then ends or says nothing.
        said = request.messages[:mark] or [Message(role=request.messages[0].role, content="")]
        same = _alike_texts(_shown(chat, before, request, said), prompt)
        places.add((base + min(alike, bisect_right(ends, same))) // page_size * page_size)
    end = (len(asked.tokens) - 1) // page_size * page_size  # where a state is left in any case
    return tuple(sorted(place for place in places if history.boundary < place < end))


def _shown(
    chat: ChatFormat, before: Standing, request: TurnRequest, said: Sequence[Message]
) -> str:
    known, session = before.history.tokens, before.session
    options = request.template
    if known:
        return chat.continuing(said, ended=known[-1] == chat.eos_id, options=options)
    return chat.rendered(
        said,
        system=session.body.meta["system"],
        tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
        options=options,
        prompt=True,
    )


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids they begin with together."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _alike_texts(one: str, other: str) -> int:
    """How many characters they begin with together."""
    same, most = 0, min(len(one), len(other))
    while same < most:
        middle = (same + most + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
