"""One message from the standard input, its answer on the standard output."""

from __future__ import annotations

import contextlib

from agent_runtime.chat import chats
from agent_runtime.chat.plain import JsonView, PlainView
from agent_runtime.chat.sitting import Sitting, Wanted
from agent_runtime.errors import BadRequest, TorporError


async def answer(sitting: Sitting, wanted: Wanted, text: str, view: PlainView | JsonView) -> None:
    """Raises TorporError, ToolsError; the session is what it was then, and one that was begun for
    this is gone. OSError if nobody reads the answer, which may be in the session by then."""
    if not text.strip():
        raise BadRequest("there is no message on the standard input; nothing was sent.")
    session = await sitting.find(wanted)
    await sitting.open(session)
    if isinstance(view, JsonView):
        view.event("session", id=session.id, name=chats.name_of(session))
    else:
        view.note(f"chat {chats.name_of(session)}")
    try:
        await sitting.exchanges.say(text.rstrip("\n"))
    except BaseException:  # Ctrl-C cancels
        # The service may still be away, and the terminal gone.
        with contextlib.suppress(TorporError, OSError):
            view.note(await sitting.exchanges.take_back())
        raise
    finally:
        await sitting.forget_if_empty(sitting.exchanges.session_id)
