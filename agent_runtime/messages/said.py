"""What was said in a session, as text: for people, and for tools that search it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent_runtime.messages.chat import ChatFormat, Message
from agent_runtime.messages.message_log import WireMessage, messages_of
from agent_runtime.said_models import SaidMessage
from agent_runtime.turns.turns import Turns
from state_store.records import Session, Snapshot
from state_store.store import StateStore
from tools.calls import ToolCall
from tools.define import ToolSpec
from tools.formats import parse

_RESULT, _END = "<tool_response>", "</tool_response>"


async def said(store: StateStore, turns: Turns, session: Session) -> list[SaidMessage]:
    """The messages of the session's history, the oldest first; those of its forks and of what it
    was rewound from are not among them. Raises NoModel, NotFound, CorruptObject."""
    if session.head is None:
        return []
    history = await store.ancestors(session.head)
    if await turns.stateless.holds(session):
        return [
            SaidMessage(
                role=message["role"],
                text=message["content"] or "",
                at=one.created_at,
                snapshot=one.id,
                parts=[_of_wire(message)],
            )
            for one in history
            for message in messages_of(await store.new_tokens(one))
        ]
    tools = [ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]]
    return _read(turns.chat, await store.tokens(session.head), history, tools)


def parts_of(chat: ChatFormat, ids: Sequence[int], tools: Sequence[ToolSpec]) -> list[Message]:
    """What a message of a history says, with its reasoning and calls apart; each result of a tool
    is one, where the template has put several into a message of the user."""
    role, text = chat.said(ids)
    if role == "assistant":
        read = parse(text, chat.calls, tools=tools, cut_off=ids[-1] != chat.eos_id)
        return [
            Message(role=role, content=read.text, tool_calls=read.calls, reasoning=read.reasoning)
        ]
    if not text.startswith(_RESULT):
        return [Message(role=role, content=text)]
    # Marked, these words are the template's own, and not what a user or a result says.
    _, *results = chat.marked(ids).split(_RESULT)
    return [
        Message(role="tool", content=chat.unmarked(one.partition(_END)[0]).strip("\n"))
        for one in results
    ] or [Message(role=role, content=text)]


def _of_wire(message: WireMessage) -> Message:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return Message(
        role=message["role"],
        content=message["content"] or "",
        tool_calls=tuple(
            ToolCall(name=call["name"], arguments=json.loads(call["arguments"] or "{}"))
            for call in calls
        ),
    )


def _read(
    chat: ChatFormat,
    tokens: Sequence[int],
    history: Sequence[Snapshot],
    tools: Sequence[ToolSpec],
) -> list[SaidMessage]:
    """Messages end with the eos token; each belongs to the snapshot that its end is in."""
    found = []
    start, place = 0, 0
    for end in [*(at + 1 for at, one in enumerate(tokens) if one == chat.eos_id), len(tokens)]:
        while history[place].total_tokens < end:
            place += 1
        role, text = chat.said(tokens[start:end])
        if text:
            snapshot = history[place]
            found.append(
                SaidMessage(
                    role=role,
                    text=text,
                    at=snapshot.created_at,
                    snapshot=snapshot.id,
                    parts=parts_of(chat, tokens[start:end], tools),
                )
            )
        start = end
    return found
