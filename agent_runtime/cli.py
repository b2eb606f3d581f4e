"""The `torpor` command. Its commands are the modules of `commands/`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from agent_runtime.errors import TorporError
from agent_runtime.service.signals import ignore_hang_up, stopping
from engine.errors import EngineError
from state_store.errors import StoreError
from tools.errors import ToolsError

_COMMANDS = {
    "up": ("up", "store, engine and runtime together, in the foreground"),
    "engine": ("engine", "one engine"),
    "serve": ("serve", "a runtime, for a store and engines that run already"),
    "chat": ("chat", "talk to an agent with tools; Ctrl-Z suspends it"),
    "demo": ("demo", "suspend, kill -9, resume and fork a real session"),
    "mcp": ("mcp", "sessions and forks as MCP tools, over stdio"),
    "profiles": ("profiles", "launch profiles, or one as a command line"),
    "config": ("config", "the settings that `serve` would run with, and their origins"),
    "plan": ("plan", "what fits, what it costs and how fast it resumes"),
    "store": ("store", "look after the store"),
    "doctor": ("doctor", "what is wrong here, and how to fix it"),
    "bench": ("bench", "measure; prints lines of JSON"),
    "simulate": ("simulate", "replay a trace of sessions to compare policies"),
    "simulate-nodes": ("nodes", "resume times and costs of sessions on real nodes"),
    "keys": ("keys", "who may use the service as which tenant"),
}
"""By name: the module in `commands`, and what the command is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it did what it should. Our own errors end it with one line.

    One that is stopped by a signal before it is done returns 128 and the signal's number, as shells
    have it; one that runs until it is stopped (`until_stopped` in its arguments) has done its work.
    """
    arguments = argparse.Namespace(until_stopped=False)
    try:
        with _terminate_like_interrupt():
            _parser().parse_args(argv, arguments)
            code: int = arguments.run(arguments)
            if not sys.stdout.closed:  # as an MCP server that speaks by it leaves it
                sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # What is left of the output is written when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (TorporError, EngineError, StoreError, ToolsError) as error:
        print(f"torpor: {error}", file=sys.stderr)
        return 1
    except _Terminated as stopped:
        return 0 if arguments.until_stopped else 128 + stopped.signal
    except KeyboardInterrupt:
        return 0 if arguments.until_stopped else 128 + signal.SIGINT


def _nobody_reads() -> bool:
    """Whether what reads the output has ended, as `head` does."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return bool(output.poll(0))


class _Terminated(KeyboardInterrupt):
    """By a signal that stops, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class _Command(argparse.ArgumentParser):
    """Gets its arguments when it is chosen: importing what all commands need takes seconds."""

    def __init__(self, *, module: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._module is not None:
            importlib.import_module(f"agent_runtime.commands.{self._module}").add_to(self)
            self._module = None
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = _Command(
        prog="torpor", description="Put agent sessions to sleep, fork them, wake them."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, purpose) in _COMMANDS.items():
        commands.add_parser(name, help=purpose, module=module)
    return parser


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM, or a terminal that is closed, stops as cleanly as Ctrl-C: whatever was started is
    ended."""

    def interrupt(number: int, _: object) -> None:
        ignore_hang_up()
        raise _Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in stopping()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
