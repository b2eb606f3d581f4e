"""What was said in a session, as text: for people, and for tools that search it."""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.message_log import messages_of
from agent_runtime.models import SaidMessage
from agent_runtime.turns.turns import Turns
from state_store.records import Session, Snapshot
from state_store.store import StateStore


async def said(store: StateStore, turns: Turns, session: Session) -> list[SaidMessage]:
    """The messages of the session's history, the oldest first; those of its forks and of what it
    was rewound from are not among them. Raises NoModel, NotFound, CorruptObject."""
    if session.head is None:
        return []
    history = await store.ancestors(session.head)
    if await turns.stateless.holds(session):
        return [
            SaidMessage(
                role=message["role"], text=message["content"] or "", at=one.created_at,
                snapshot=one.id,
            )
            for one in history
            for message in messages_of(await store.new_tokens(one))
        ]  # fmt: skip
    return _read(turns.chat, await store.tokens(session.head), history)


def _read(
    chat: ChatFormat, tokens: Sequence[int], history: Sequence[Snapshot]
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
                SaidMessage(role=role, text=text, at=snapshot.created_at, snapshot=snapshot.id)
            )
        start = end
    return found
