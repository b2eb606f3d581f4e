"""An exchange without a terminal: one message in, the answer out, as text or as lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from pydantic import BaseModel

from agent_runtime.chat.view import harmless, one_line, usage_line
from agent_runtime.graph import Step
from agent_runtime.wire.events import Progress, ToolCalled
from agent_runtime.wire.turns import TurnResult


class PlainView:
    """The answer goes to `out`, everything else to `err`. A terminal is only sent what is harmless
    to it."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._ends_a_line = True

    def reasoning(self, text: str) -> None:
        pass

    def text(self, text: str) -> None:
        if text:
            self._out.write(harmless(text) if self._out.isatty() else text)
            self._out.flush()
            self._ends_a_line = text.endswith("\n")

    def called(self, call: ToolCalled) -> None:
        self._tell(one_line(f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}"))

    def ran(self, step: Step) -> None:
        self._tell(one_line(f"{step.name}: {step.text}"))
        for note in step.notes:
            self._tell(f"  {one_line(note)}")

    def progress(self, progress: Progress) -> None:
        pass

    def anew(self) -> None:
        self._end_line()
        self._tell("the answer broke off, and is given anew.")

    def note(self, text: str) -> None:
        self._tell(one_line(text, 1000))

    def took(self, result: TurnResult) -> None:
        pass

    def done(self, results: Sequence[TurnResult]) -> None:
        self._end_line()
        for problem in results[-1].problems:
            self._tell(one_line(problem))
        self._tell(usage_line(results))

    def _end_line(self) -> None:
        if not self._ends_a_line:
            self._out.write("\n")
            self._out.flush()
            self._ends_a_line = True

    def _tell(self, line: str) -> None:
        print(harmless(line), file=self._err, flush=True)


class JsonView:
    """Every event is a line: `event` is its name, the rest are its fields."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out

    def event(self, name: str, /, **fields: Any) -> None:
        print(json.dumps({"event": name, **fields}), file=self._out, flush=True)

    def reasoning(self, text: str) -> None:
        self.event("reasoning", text=text)

    def text(self, text: str) -> None:
        self.event("text", text=text)

    def called(self, call: ToolCalled) -> None:
        self.event("tool_call", **_fields(call))

    def ran(self, step: Step) -> None:
        self.event("tool_result", name=step.name, text=step.text, notes=step.notes)

    def progress(self, progress: Progress) -> None:
        self.event("progress", **_fields(progress))

    def anew(self) -> None:
        self.event("anew")

    def note(self, text: str) -> None:
        self.event("note", text=text)

    def took(self, result: TurnResult) -> None:
        self.event("result", **_fields(result))

    def done(self, results: Sequence[TurnResult]) -> None:
        pass


def _fields(event: BaseModel) -> dict[str, Any]:
    return event.model_dump(mode="json")
