"""What was said in a session: for people, and for tools that search it."""

from __future__ import annotations

import asyncio

from agent_runtime.messages.blocks import messages_in
from agent_runtime.messages.message_log import messages_of
from agent_runtime.turns.stateless import said_on_the_wire
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.messages import SaidMessage
from state_store.records import Session
from state_store.store import StateStore
from tools.define import ToolSpec


async def said(store: StateStore, turns: Turns, session: Session) -> list[SaidMessage]:
    """The messages of the session's history, the oldest first; those of its forks and of what it
    was rewound from are not among them. Raises NoModel, NotFound, CorruptObject."""
    if session.head is None:
        return []
    history = await store.ancestors(session.head)
    if await turns.stateless.holds(session):
        found = [
            (said_on_the_wire(message), one)
            for one in history
            for message in messages_of(await store.new_tokens(one))
        ]
    else:
        placed = await asyncio.to_thread(
            messages_in,
            turns.chat,
            await store.tokens(session.head),
            system=session.body.meta["system"],
            tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
        )
        found, place = [], 0
        for one in placed:
            while history[place].total_tokens < one.end:
                place += 1
            found.append((one.message, history[place]))
    return [
        SaidMessage(
            role=message.role,
            text=message.content,
            reasoning=message.reasoning,
            tool_calls=list(message.tool_calls),
            at=snapshot.created_at,
            snapshot=snapshot.id,
        )
        for message, snapshot in found
    ]
