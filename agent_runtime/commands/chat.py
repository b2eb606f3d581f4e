"""`torpor chat`: talk to an agent with tools. Ctrl-Z suspends it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from agent_runtime.commands import service_options
from agent_runtime.errors import TorporError
from tools.errors import ToolsError

if TYPE_CHECKING:
    from agent_runtime.chat.exchange import Allow
    from agent_runtime.chat.sitting import Sitting, Wanted
    from agent_runtime.chat.view import View
    from agent_runtime.sdk import Torpor

_KEY_VARIABLE = "TORPOR_API_KEY"
_INTERRUPTED = 130  # as shells say of a command that Ctrl-C has ended


def add_to(parser: argparse.ArgumentParser) -> None:
    from agent_runtime.wire.messages import Effort

    service_options.add_to(parser, key_variable=_KEY_VARIABLE)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--session", metavar="NAME", help="the chat with this name, or a session's id; or a new one"
    )
    which.add_argument(
        "--continue", dest="newest", action="store_true", help="the chat that was opened last"
    )
    parser.add_argument("--system", metavar="TEXT", help="system text of a new chat")
    tools = parser.add_mutually_exclusive_group()
    tools.add_argument("--tools", nargs="+", metavar="NAME", help="of a new chat; default: all")
    tools.add_argument("--no-tools", action="store_true", help="a new chat without tools")
    parser.add_argument("--folder", type=Path, help="that the tool `file_search` looks in")
    parser.add_argument(
        "--fetch-from", nargs="+", default=[], metavar="HOST", help="that `fetch` may reach"
    )
    parser.add_argument(
        "--yes", action="store_true", help="run `python` and `shell` without asking first"
    )
    parser.add_argument(
        "--max-tokens", type=_max_tokens, default=1024, help="of each answer; %(default)s"
    )
    parser.add_argument("--temperature", type=_temperature, default=None, help="0 is greedy")
    parser.add_argument("--effort", choices=get_args(Effort), help="how much the model thinks")
    parser.add_argument(
        "--wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a service that is away or full is asked again; %(default)s",
    )
    parser.add_argument("--files", type=Path, default=_files(), help="where tools keep files")
    parser.add_argument("--json", action="store_true", help="events as lines of JSON")
    parser.set_defaults(run=_run)


def _max_tokens(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens: it is 1 or more")


def _temperature(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no temperature: it is 0 or more")


def _files() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "torpor" / "chat"


def _run(arguments: argparse.Namespace) -> int:
    from agent_runtime.chat.problems import exit_code, told

    logging.getLogger("agent_runtime").addHandler(logging.NullHandler())  # views tell
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not arguments.json
    try:
        return asyncio.run(_talk(arguments) if interactive else _answer(arguments))
    except (TorporError, ToolsError, OSError) as error:
        print(f"torpor: {told(error)}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return _INTERRUPTED


async def _talk(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from agent_runtime.chat.screen import Screen
    from agent_runtime.chat.terminal import Terminal

    options = "" if arguments.url == service_options.URL else f" --url {arguments.url}"
    screen = Screen(Console())
    terminal = Terminal(screen, options)
    async with _service(arguments) as torpor:
        sitting = _sitting(arguments, torpor, screen, terminal.allow)
        return await terminal.talk(sitting, _wanted(arguments))


async def _answer(arguments: argparse.Namespace) -> int:
    from agent_runtime.chat import piped
    from agent_runtime.chat.plain import JsonView, PlainView

    view = JsonView(sys.stdout) if arguments.json else PlainView(sys.stdout, sys.stderr)
    async with _service(arguments) as torpor:
        sitting = _sitting(arguments, torpor, view, None)
        text = await asyncio.to_thread(sys.stdin.read)
        await piped.answer(sitting, _wanted(arguments), text, view)
    return 0


def _service(arguments: argparse.Namespace) -> contextlib.AbstractAsyncContextManager[Torpor]:
    from agent_runtime.sdk import Torpor

    key = service_options.api_key(arguments.key_variable, otherwise=_KEY_VARIABLE)
    return Torpor(arguments.url, api_key=key)


def _sitting(
    arguments: argparse.Namespace, torpor: Torpor, view: View, allow: Allow | None
) -> Sitting:
    from agent_runtime.chat.exchange import Exchanges, Options
    from agent_runtime.chat.sitting import Sitting
    from agent_runtime.chat.toolbox import Toolbox
    from tools.approval import Verdict

    code = Verdict.REFUSE if allow is None else Verdict.ASK
    toolbox = Toolbox(
        torpor,
        arguments.files,
        arguments.folder,
        tuple(arguments.fetch_from),
        Verdict.ALLOW if arguments.yes else code,
    )
    options = Options(
        arguments.max_tokens, arguments.temperature, arguments.effort, patience=arguments.wait
    )
    return Sitting(toolbox, view, lambda session: Exchanges(session, toolbox, view, allow, options))


def _wanted(arguments: argparse.Namespace) -> Wanted:
    from agent_runtime.chat.sitting import Wanted

    return Wanted(
        session=arguments.session,
        newest=arguments.newest,
        system=arguments.system,
        tools=[] if arguments.no_tools else arguments.tools,
    )
