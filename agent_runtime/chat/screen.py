"""How a chat looks in a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
import termios
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.control import Control
from rich.markup import escape
from rich.segment import ControlType
from rich.table import Table
from rich.tree import Tree

from agent_runtime.chat.chats import name_of
from agent_runtime.chat.view import harmless, one_line, usage_line
from agent_runtime.graph import Step
from agent_runtime.wire.events import Progress, ToolCalled
from agent_runtime.wire.messages import SaidMessage
from agent_runtime.wire.residency import Resumed
from agent_runtime.wire.sessions import SessionView, SnapshotView
from agent_runtime.wire.turns import TurnResult
from agent_runtime.wire.versions import TreeView

CALL = "→"

_CLEAR = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))
MOST_SHOWN = 6  # messages of an earlier sitting
_DIGEST_CHARS = 8  # of a snapshot's id, as they are shown


class Screen:
    """A `View` on a terminal. Nothing that a model, a tool or a service says is markup or commands
    the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._style: str | None = None
        """Of the piece that the line goes on with; None at the beginning of one."""
        self._passing = False
        """Whether the line is to be written over."""

    def reasoning(self, text: str) -> None:
        self._piece(text, "dim italic")

    def text(self, text: str) -> None:
        self._piece(text, "default")

    def called(self, call: ToolCalled) -> None:
        self._line(f"{CALL} " + one_line(f"{call.name} {_json(call.arguments)}"), "cyan")

    def ran(self, step: Step) -> None:
        self._line("← " + one_line(f"{step.name}: {step.text}"), "cyan dim")
        for note in step.notes:
            self._line(f"  {one_line(note)}", "dim")

    def progress(self, progress: Progress) -> None:
        units = {"load": "bytes loaded", "prefill": "tokens ready", "commit": "objects stored"}
        self._line(f"  {progress.done} of {progress.total} {units[progress.phase]}", "dim", end="")
        self._passing = True

    def anew(self) -> None:
        self._line("the answer broke off, and is given anew:", "yellow")

    def note(self, text: str) -> None:
        self._line(one_line(text, 1000), "yellow")

    def took(self, result: TurnResult) -> None:
        pass

    def done(self, results: Sequence[TurnResult]) -> None:
        last = results[-1]
        if last.finish_reason == "length":
            self._line("(cut off: it has reached --max-tokens, or the context is full)", "yellow")
        for problem in last.problems:
            self._line(f"  {one_line(problem)}", "dim")
        self._line(usage_line(results), "dim")

    def say(self, text: str) -> None:
        """What a command answers."""
        self._line(harmless(text), "default")

    def refuse(self, text: str) -> None:
        """What could not be done."""
        self._line(one_line(text, 1000), "red")

    def opened(self, session: SessionView, resumed: Resumed | None) -> None:
        """Which chat it is, and what of its state can be picked up."""
        tokens = f", {session.tokens} tokens" if session.tokens else ""
        new = "new " if session.head is None else ""
        self._line(f"{new}chat {name_of(session)} ({session.id}{tokens})", "bold")
        if resumed is not None and resumed.tokens:
            why = f" ({resumed.reason})" if resumed.reason else ""
            self._line(
                f"resumed: {resumed.restorable_tokens} of {resumed.tokens} tokens can be picked "
                f"up{why}, {resumed.bytes_read} bytes read in {resumed.seconds:.2f} s",
                "dim",
            )

    def history(self, said: Sequence[SaidMessage], *, are_all: bool) -> None:
        """The last messages, a line for each that was said, called or given back. are_all: whether
        nothing was said before them"""
        if not are_all:
            self._line("… earlier messages", "dim")
        for one in said:
            for who, text in parts_of(one):
                said_by = who if who == CALL else f"{who}:"
                self._line(f"{said_by} {one_line(text, 200)}", "dim")

    def tree(self, tree: TreeView, here: str) -> None:
        """here: id of the session that this chat is in"""
        tips: dict[str | None, list[str]] = {}
        for branch in tree.sessions:
            mark = " ← you are here" if branch.id == here else ""
            name = branch.labels.get("chat", branch.id)
            tips.setdefault(branch.head, []).append(f"{name}{mark}")
        root = Tree(escape(", ".join(["beginning", *tips.get(None, ())])))
        nodes: dict[str | None, Tree] = {None: root}
        for one in tree.snapshots:
            label = f"{_digest(one)[:_DIGEST_CHARS]} {one.tokens} tokens"
            names = ", ".join(tips.get(one.id, ()))
            label += f"  {names}" if names else ""
            nodes[one.id] = nodes[one.parent].add(escape(harmless(label)))
        self._end_line()
        self._console.print(root)

    def sessions(self, views: Sequence[SessionView], here: str) -> None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("", "chat", "tokens", "state", "id"):
            table.add_column(title, justify="right" if title == "tokens" else "left")
        for view in views:
            mark = "*" if view.id == here else ""
            name, tokens = escape(harmless(name_of(view))), str(view.tokens)
            table.add_row(mark, name, tokens, view.residency, view.id)
        self._end_line()
        self._console.print(table)

    def _piece(self, text: str, style: str) -> None:
        if not text:
            return
        if self._style not in (None, style):
            self._end_line()
        self._write(text, style)
        self._style = None if text.endswith("\n") else style

    def _line(self, text: str, style: str, *, end: str = "\n") -> None:
        self._end_line()
        self._write(f"{text}{end}", style)

    def _end_line(self) -> None:
        if self._style is not None:
            self._write("\n", "default")
            self._style = None

    def _write(self, text: str, style: str) -> None:
        if self._passing:
            self._console.control(_CLEAR)
            self._passing = False
        self._console.print(
            harmless(text), style=style, end="", markup=False, highlight=False, emoji=False,
            soft_wrap=True,
        )  # fmt: skip


def parts_of(said: SaidMessage) -> list[tuple[str, str]]:
    """Who said what in a message, without thinking. Calls are said by CALL."""
    calls = [(CALL, f"{call.name} {_json(call.arguments)}") for call in said.tool_calls]
    if said.text or said.role != "assistant":
        return [(said.role or "?", said.text), *calls]
    return calls


def snapshot_named(snapshots: Sequence[SnapshotView], beginning: str) -> str | None:
    """The id of the one whose digest begins so; None unless it is exactly one."""
    found = [
        one.id for one in snapshots if one.id == beginning or _digest(one).startswith(beginning)
    ]
    return found[0] if len(found) == 1 else None


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """What is typed meanwhile is not shown, and read when somebody reads."""
    terminal = sys.stdin.fileno()
    try:
        before = termios.tcgetattr(terminal)
    except termios.error:  # it is gone
        yield
        return
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _digest(snapshot: SnapshotView) -> str:
    """The part of its id that is not that of all its lineage."""
    return snapshot.id.rpartition("-")[2]


def _json(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False)
