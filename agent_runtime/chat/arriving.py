"""Coming back to a chat: its state is fetched, and what was said last is shown."""

from __future__ import annotations

from agent_runtime.chat.exchange import INTERRUPTED
from agent_runtime.chat.screen import CALL, Screen, parts_of
from agent_runtime.chat.sitting import Sitting
from agent_runtime.wire.sessions import SessionView


async def arrive(sitting: Sitting, screen: Screen, session: SessionView) -> None:
    """Raises ApiError, ApiUnreachable: then the chat is the one that it was."""
    resumed = None
    if session.head is not None:
        resumed = await sitting.torpor.resume(session.id, on_progress=screen.progress)
    said = await sitting.torpor.messages(session.id)
    await sitting.open(session)
    screen.opened(sitting.session, resumed)
    screen.history(said)
    if said and [who for who, _ in parts_of(said[-1])][-1:] == [CALL]:
        screen.note("these calls broke off, the model has no results. /rewind asks you anew.")
    if session.turn is not None and session.turn.state == INTERRUPTED:
        screen.note("your last message was not answered: its runtime died. /again answers it.")
    elif session.turn is not None:
        screen.note("a turn of this chat is running elsewhere; what you say waits for its end.")
