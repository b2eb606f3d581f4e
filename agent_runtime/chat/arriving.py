"""Coming back to a chat: its state is fetched, and what was said last is shown."""

from __future__ import annotations

import contextlib

from agent_runtime.chat.exchange import INTERRUPTED
from agent_runtime.chat.screen import CALL, MOST_SHOWN, Screen, parts_of
from agent_runtime.chat.sitting import Sitting
from agent_runtime.sdk import Torpor
from agent_runtime.wire.messages import SaidMessage
from agent_runtime.wire.sessions import SessionView


async def arrive(sitting: Sitting, screen: Screen, session: SessionView) -> None:
    """Raises ApiError, ApiUnreachable: then the chat is the one that it was."""
    resumed = None
    if session.head is not None:
        resumed = await sitting.torpor.resume(session.id, on_progress=screen.progress)
    said, are_all = await _last_said(sitting.torpor, session.id)
    await sitting.open(session)
    screen.opened(sitting.session, resumed)
    screen.history(said, are_all=are_all)
    if said and [who for who, _ in parts_of(said[-1])][-1:] == [CALL]:
        screen.note("these calls broke off, the model has no results. /rewind asks you anew.")
    if session.turn is not None and session.turn.state == INTERRUPTED:
        screen.note("your last message was not answered: its runtime died. /again answers it.")
    elif session.turn is not None:
        screen.note("a turn of this chat is running elsewhere; what you say waits for its end.")


async def _last_said(torpor: Torpor, session_id: str) -> tuple[list[SaidMessage], bool]:
    """The last messages that a chat shows, the oldest first, and whether there are no others."""
    newest_first: list[SaidMessage] = []
    async with contextlib.aclosing(torpor.messages(session_id, limit=MOST_SHOWN + 1)) as messages:
        async for one in messages:
            if one.role == "system":
                continue
            if len(newest_first) == MOST_SHOWN:
                return newest_first[::-1], False
            newest_first.append(one)
    return newest_first[::-1], True
