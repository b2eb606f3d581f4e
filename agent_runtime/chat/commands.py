"""What a person can say to the chat itself: lines that begin with a slash."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path

from agent_runtime.chat import chats
from agent_runtime.chat.arriving import arrive
from agent_runtime.chat.screen import Screen, snapshot_named
from agent_runtime.chat.sitting import Sitting
from agent_runtime.chat.view import usage_line
from agent_runtime.errors import BadRequest, NotFound
from agent_runtime.wire.sessions import SessionView
from agent_runtime.wire.turns import TurnResult
from agent_runtime.wire.versions import TreeView


class Next(Enum):
    """What comes after a command."""

    PROMPT = "prompt"
    AGAIN = "again"
    LEAVE = "leave"


Command = Callable[[str], Awaitable[Next]]

COMMANDS = {
    "help": ("", "this list"),
    "fork": ("[TOKENS|SNAPSHOT]", "go on in a fork: from here, or from there"),
    "rewind": ("[MESSAGES|SNAPSHOT]", "take back your last message, or more"),
    "tree": ("", "this chat, its forks and their snapshots"),
    "sessions": ("", "all chats, the last one first"),
    "switch": ("NAME|ID|NUMBER", "go to another chat"),
    "tools": ("", "what the model may use"),
    "usage": ("", "tokens of this sitting, and where the state is"),
    "export": ("FILE", "the session as one file"),
    "again": ("", "go on with what broke off"),
    "suspend": ("", "leave, like Ctrl-Z: come back whenever you like"),
    "quit": ("", "leave, like Ctrl-D"),
}
"""By name: what it takes, `[…]` if it may be left out, and what it is for."""


class Commands:
    """taken: results of all turns of this sitting, which `/usage` adds up"""

    def __init__(self, sitting: Sitting, screen: Screen) -> None:
        self._sitting = sitting
        self._torpor = sitting.torpor
        self._screen = screen
        self._listed: list[SessionView] = []
        self.taken: list[TurnResult] = []

    async def run(self, line: str) -> Next:
        """Raises TorporError for what could not be done; nothing has changed then."""
        name, _, given = line.removeprefix("/").partition(" ")
        if name not in COMMANDS:
            raise BadRequest(f"there is no command /{name}; /help lists them.")
        takes, _ = COMMANDS[name]
        command: Command = getattr(self, f"_{name}")
        if given and not takes:
            raise BadRequest(f"/{name} takes nothing.")
        if takes and not takes.startswith("[") and not given:
            raise BadRequest(f"/{name} takes {takes}.")
        return await command(given.strip())

    async def _help(self, _: str) -> Next:
        rows = [(f"/{name} {takes}", what) for name, (takes, what) in COMMANDS.items()]
        width = max(len(usage) for usage, _ in rows)
        self._screen.say("\n".join(f"{usage:<{width}}  {what}" for usage, what in rows))
        self._screen.say(
            "Ctrl-C ends the turn, Ctrl-Z suspends, Ctrl-D leaves; Alt-Enter begins a new line."
        )
        return Next.PROMPT

    async def _fork(self, place: str) -> Next:
        session = await self._sitting.look()
        if place.isdecimal() and len(place) < 10:
            fork = await chats.forked(self._torpor, session, tokens=int(place))
        elif place:
            fork = await chats.forked(self._torpor, session, snapshot=await self._place(place))
        else:
            fork = await chats.forked(self._torpor, session)
        await self._sitting.open(fork)
        again = f"; {fork.recompute_tokens} of them are computed again" * bool(
            fork.recompute_tokens
        )
        self._screen.say(
            f"you are in {chats.name_of(fork)} now, at {fork.tokens} tokens{again}. "
            f"{chats.name_of(session)} stays where it is."
        )
        return Next.PROMPT

    async def _rewind(self, place: str) -> Next:
        session = await self._sitting.look()
        if place and not (place.isdecimal() and len(place) < 10):
            target = await self._place(place)
        else:
            target = await self._before_message(int(place or 1))
        view = await self._torpor.rewind(
            session.id, snapshot=target, expected_head=session.head or ""
        )
        self._screen.say(f"back at {view.tokens} tokens; what came after it is gone.")
        await self._sitting.open(view)
        return Next.PROMPT

    async def _tree(self, _: str) -> Next:
        session = await self._sitting.look()
        pages = [page async for page in self._torpor.tree(session.id)]
        self._screen.tree(TreeView.whole(pages), session.id)
        return Next.PROMPT

    async def _sessions(self, _: str) -> Next:
        session = await self._sitting.look()
        self._listed = await chats.all_chats(self._torpor)
        self._screen.sessions(self._listed, session.id)
        return Next.PROMPT

    async def _switch(self, name: str) -> Next:
        before = await self._sitting.look()
        if name.isdecimal() and 1 <= int(name) <= len(self._listed):
            found: SessionView | None = await self._torpor.get(self._listed[int(name) - 1].id)
        else:
            found = await chats.found(self._torpor, name)
        if found is None:
            raise NotFound(f"there is no chat {name!r}; /sessions lists them.")
        if found.id != before.id:
            await arrive(self._sitting, self._screen, found)
            await self._sitting.let_go(before.id)
        return Next.PROMPT

    async def _tools(self, _: str) -> Next:
        session = await self._sitting.look()
        missing = self._sitting.toolbox.missing(session.tools)
        lines = [f"{name}{'  (not here)' * (name in missing)}" for name in session.tools]
        self._screen.say("\n".join(lines) or "none: this chat was begun without tools")
        return Next.PROMPT

    async def _usage(self, _: str) -> Next:
        if self.taken:
            self._screen.say(usage_line(self.taken))
        else:
            self._screen.say("no turns yet in this sitting")
        view = await self._sitting.look()
        place = await self._torpor.whereabouts(view.id)
        self._screen.say(
            f"{chats.name_of(view)}: {view.tokens} tokens, state {view.residency}; "
            f"on the device {place.device_tokens}, in the store {place.stored_tokens} tokens"
        )
        return Next.PROMPT

    async def _export(self, file: str) -> Next:
        path = _new_file(file)
        session = await self._sitting.look()
        try:
            await self._torpor.export(session.id, path)
        except OSError as error:
            raise BadRequest(f"{path} cannot be written: {error.strerror}") from error
        self._screen.say(f"{path} is written, for `torpor store import`.")
        return Next.PROMPT

    async def _again(self, _: str) -> Next:
        return Next.AGAIN

    async def _suspend(self, _: str) -> Next:
        return Next.LEAVE

    async def _quit(self, _: str) -> Next:
        return Next.LEAVE

    async def _place(self, beginning: str) -> str:
        """The snapshot of this session's history whose id begins so."""
        session = await self._sitting.look()
        found = snapshot_named(await self._torpor.snapshots(session.id), beginning)
        if found is None:
            raise NotFound(f"{beginning!r} begins the id of no snapshot here, or of several; /tree")
        return found

    async def _before_message(self, count: int) -> str:
        """Where the session was before so many of a person's messages; "" if it was empty."""
        session = await self._sitting.look()
        asked: dict[str, None] = {}  # snapshots, the last one first
        async with contextlib.aclosing(self._torpor.messages(session.id)) as messages:
            async for one in messages:
                if one.role == "user":
                    asked[one.snapshot] = None
                if len(asked) == count > 0:
                    break
        if not 1 <= count <= len(asked):
            raise BadRequest(f"this chat has {len(asked)} messages of yours to take back.")
        return (await self._torpor.snapshot([*asked][-1])).parent or ""


def _new_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        raise BadRequest(f"{path} is there already; give another name.")
    return path
