"""The chat that is talked to now: which session, what it may use, and how it is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent_runtime.chat import chats
from agent_runtime.chat.exchange import Exchanges
from agent_runtime.chat.toolbox import Toolbox
from agent_runtime.chat.view import View
from agent_runtime.errors import BadRequest
from agent_runtime.wire.residency import Suspended
from agent_runtime.wire.sessions import SessionView


@dataclass(frozen=True)
class Wanted:
    """Which chat, and what a new one begins with.

    session: name or id; one that is not there is begun under that name
    newest:  instead: the one that was opened last
    tools:   names; all that there are if None
    """

    session: str | None = None
    newest: bool = False
    system: str | None = None
    tools: Sequence[str] | None = None


class Sitting:
    """session: as it was when it was looked at last"""

    session: SessionView
    exchanges: Exchanges

    def __init__(
        self, toolbox: Toolbox, view: View, begin: Callable[[SessionView], Exchanges]
    ) -> None:
        """begin: exchanges with a session, on these two"""
        self.torpor = toolbox.torpor
        self.toolbox = toolbox
        self._view = view
        self._begin = begin
        self._begun: set[str] = set()

    async def find(self, wanted: Wanted) -> SessionView:
        """The session that is wanted, which is begun if it is not there. Raises NotFound,
        BadRequest for what only a new one can be given, UnknownTool, ApiError."""
        found = None
        if wanted.newest:
            found = await chats.newest(self.torpor)
        elif wanted.session is not None:
            found = await chats.found(self.torpor, wanted.session)
        if found is None:
            begun = await chats.begun(
                self.torpor,
                wanted.session,
                system=wanted.system,
                tools=self.toolbox.specs(wanted.tools),
            )
            self._begun.add(begun.id)
            return begun
        if wanted.system is not None or wanted.tools is not None:
            raise BadRequest(
                f"chat {chats.name_of(found)} has its system text and its tools already; leave "
                "out --system, --tools and --no-tools, or begin another chat with another name."
            )
        return found

    async def open(self, session: SessionView) -> None:
        """Talk to this one from now on."""
        self.session = await chats.opened(self.torpor, session)
        self.exchanges = self._begin(self.session)
        if missing := self.toolbox.missing(self.session.tools):
            self._view.note(
                f"the model knows tools that cannot be run here, and is told so when it calls "
                f"them: {', '.join(missing)}."
            )

    async def look(self) -> SessionView:
        """The session as it is now, which is another one if a turn had to be taken in a fork."""
        session = await self.torpor.get(self.exchanges.session_id)
        if session.id != self.session.id:
            await self.open(session)
        else:
            self.session = session
        return self.session

    async def let_go(self, session_id: str) -> Suspended | None:
        """Make a session durable and free the engine of it; None if it was begun here and
        nothing is said in it, and it was deleted. Raises ApiError, ApiUnreachable: then it is as
        durable as its last turn."""
        if await self.forget_if_empty(session_id):
            return None
        return await self.torpor.suspend(session_id)

    async def forget_if_empty(self, session_id: str) -> bool:
        """Delete a session that was begun here if nothing is said in it; whether it was one."""
        return session_id in self._begun and await chats.forget_if_empty(self.torpor, session_id)
