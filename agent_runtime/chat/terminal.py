"""The conversation in a terminal: lines in, answers out, and what the keys do meanwhile.

        at the prompt                      while it answers
Ctrl-C  forgets the line                   ends the turn: the session is as before
Ctrl-Z  suspends and leaves                the same, and then suspends and leaves
Ctrl-D  leaves, which suspends too         -
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from agent_runtime.chat import chats
from agent_runtime.chat.arriving import arrive
from agent_runtime.chat.commands import COMMANDS, Commands, Next
from agent_runtime.chat.problems import FAILED, told
from agent_runtime.chat.screen import Screen, without_echo
from agent_runtime.chat.sitting import Sitting, Wanted
from agent_runtime.chat.view import one_line, visible
from agent_runtime.errors import TorporError
from agent_runtime.wire.turns import TurnResult
from tools.errors import ToolsError

T = TypeVar("T")

_NOT_SUSPENDED = "The chat is not suspended: it is as durable as its last turn."


class Key(Enum):
    """What ends a wait for a line."""

    END_TURN = "c-c"
    SUSPEND = "c-z"
    LEAVE = "c-d"


class _Ended(Exception):
    """A person was asked something, and ended the turn."""

    def __init__(self, key: Key) -> None:
        super().__init__(key.value)
        self.key = key


class Terminal:
    """url_options: of the command, to say how to come back"""

    def __init__(self, screen: Screen, url_options: str) -> None:
        self._screen = screen
        self._url_options = url_options
        self._lines = _Lines()
        self._always: set[str] = set()
        self._running: asyncio.Future[Any] | None = None
        self._key: Key | None = None
        self._sitting: Sitting
        self._commands: Commands

    async def talk(self, sitting: Sitting, wanted: Wanted) -> int:
        """Until the person leaves; the exit code. Raises TorporError if it cannot begin."""
        self._sitting = sitting
        self._commands = Commands(sitting, self._screen)
        await arrive(sitting, self._screen, await sitting.find(wanted))
        self._screen.say("/help lists the commands.")
        with self._pressing({signal.SIGHUP: Key.SUSPEND, signal.SIGTERM: Key.SUSPEND}):
            while True:
                line = await self._lines.read(f"{one_line(chats.name_of(sitting.session))}> ")
                try:
                    leaves = await self._follow(line)
                except OSError:  # the terminal is gone
                    leaves = True
                if leaves:
                    return await self._leave()

    async def allow(self, calls: Sequence[dict[str, Any]]) -> list[bool]:
        """Ask the person about each of these calls."""
        return [await self._may_run(call) for call in calls]

    async def _follow(self, line: str | Key) -> bool:
        """Do what was said; whether the person leaves."""
        if isinstance(line, Key):
            if line is Key.END_TURN:
                self._screen.say("Ctrl-D leaves, Ctrl-Z suspends; the chat is kept.")
            return line is not Key.END_TURN
        if not line.strip():
            return False
        if not line.startswith("/"):
            return await self._answered(self._sitting.exchanges.say(line))
        after: Next | Key = Next.PROMPT
        with self._telling():
            after = await self._until_key(self._commands.run(line.strip()))
        if after is Next.AGAIN:
            return await self._answered(self._again())
        return after in (Next.LEAVE, Key.SUSPEND)

    async def _again(self) -> list[TurnResult]:
        results = await self._sitting.exchanges.go_on()
        if results is None:
            self._screen.say("nothing has broken off.")
        return results or []

    async def _answered(self, exchange: Coroutine[Any, Any, list[TurnResult]]) -> bool:
        """Show an exchange while it runs; whether the person leaves."""
        results: list[TurnResult] | Key | None = None
        with self._telling():
            results = await self._until_key(exchange)
            if isinstance(results, Key):
                await self._take_back()
            else:
                self._commands.taken += results
            await self._sitting.look()
        if results is None:
            self._screen.say("/again goes on from there, /rewind takes your message back.")
        return results in (Key.SUSPEND, Key.LEAVE)

    async def _take_back(self) -> None:
        told = await self._until_key(self._sitting.exchanges.take_back())
        if isinstance(told, Key):
            told = "the turn was ended here; /rewind takes your message back if it is in the chat."
        self._screen.note(told)

    async def _may_run(self, call: dict[str, Any]) -> bool:
        name = call["name"]
        if name in self._always:
            return True
        self._screen.note(f"{name} is to be called with:")
        for argument, value in call["arguments"].items():
            self._screen.say(f"  {argument}: {_shown(value)}")
        while True:
            said = await self._lines.ask("allow it? [y]es, [n]o, [a]lways in this sitting: ")
            if isinstance(said, Key):
                raise _Ended(said)
            match said.strip().lower():
                case "y" | "yes":
                    return True
                case "n" | "no":
                    return False
                case "a" | "always":
                    self._always.add(name)
                    return True

    async def _leave(self) -> int:
        """Suspend; the exit code."""
        name = chats.name_of(self._sitting.session)
        try:
            suspended = await self._until_key(
                self._sitting.let_go(self._sitting.exchanges.session_id)
            )
        except TorporError as error:
            self._last_words(self._screen.refuse, f"{told(error)} {_NOT_SUSPENDED}")
            return FAILED
        if isinstance(suspended, Key):
            self._last_words(self._screen.refuse, _NOT_SUSPENDED)
            return FAILED
        if suspended is None:
            self._last_words(self._screen.say, "nothing was said, so this chat is not kept.")
        else:
            back = f"torpor chat{self._url_options} --session {shlex.quote(name)}"
            self._last_words(
                self._screen.say,
                f"suspended, durable: {suspended.durable}. Come back with\n  {back}",
            )
        return 0

    def _last_words(self, say: Callable[[str], None], text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            say(text)

    async def _until_key(self, work: Coroutine[Any, Any, T]) -> T | Key:
        """What `work` comes to, or the key that has ended it."""
        self._key = None
        self._running = asyncio.ensure_future(work)
        try:
            with (
                without_echo(),
                self._pressing({signal.SIGINT: Key.END_TURN, signal.SIGTSTP: Key.SUSPEND}),
            ):
                done: T = await self._running
                return done
        except asyncio.CancelledError:
            if self._key is None:
                raise
            return self._key
        except _Ended as ended:
            return ended.key
        finally:
            self._running = None

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong is told, and the chat goes on."""
        try:
            yield
        except (TorporError, ToolsError) as error:
            self._screen.refuse(told(error))

    @contextlib.contextmanager
    def _pressing(self, keys: dict[signal.Signals, Key]) -> Iterator[None]:
        """Signals are as if the person had pressed these keys."""
        loop = asyncio.get_running_loop()
        for number, key in keys.items():
            loop.add_signal_handler(number, self._press, key)
        try:
            yield
        finally:
            for number in keys:
                loop.remove_signal_handler(number)

    def _press(self, key: Key) -> None:
        if self._lines.end(key):
            return
        self._key = key
        if self._running is not None:
            self._running.cancel()


class _Lines:
    """Reads lines; the keys that end a wait are told instead of raised."""

    def __init__(self) -> None:
        keys = KeyBindings()
        keys.add("c-c")(lambda event: event.app.exit(result=Key.END_TURN))
        keys.add("c-z")(lambda event: event.app.exit(result=Key.SUSPEND))
        empty = Condition(lambda: not get_app().current_buffer.text)
        keys.add("c-d", filter=empty)(lambda event: event.app.exit(result=Key.LEAVE))
        keys.add("escape", "enter")(_new_line)
        self._reading: PromptSession[str | Key] = PromptSession(
            history=InMemoryHistory(),
            completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
            key_bindings=keys,
            complete_style=CompleteStyle.READLINE_LIKE,  # needs no room below the line
        )
        self._asking: PromptSession[str | Key] = PromptSession(key_bindings=keys)
        self._now: PromptSession[str | Key] | None = None

    async def read(self, prompt: str) -> str | Key:
        """A message or a command."""
        return await self._line(self._reading, prompt)

    async def ask(self, question: str) -> str | Key:
        """What a person answers; it is in no history."""
        return await self._line(self._asking, question)

    def end(self, key: Key) -> bool:
        """End the wait for a line, if there is one."""
        if self._now is None or not self._now.app.is_running:
            return False
        self._now.app.exit(result=key)
        return True

    async def _line(self, session: PromptSession[str | Key], prompt: str) -> str | Key:
        self._now = session
        try:
            return await session.prompt_async(prompt, handle_sigint=False)
        except (EOFError, OSError):  # the terminal is gone
            return Key.LEAVE
        finally:
            self._now = None


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def _shown(value: Any) -> str:
    """All of it, line by line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "\n    ".join(map(visible, text.split("\n")))
