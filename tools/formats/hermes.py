"""The JSON format of Hermes and Qwen models.

    <think>…</think>text
    <tool_call>
    {"name": NAME, "arguments": {KEY: VALUE, …}}
    </tool_call>

A call ends at the first `</tool_call>` up to which its JSON is whole: one inside a string is a part
of that. JSON that is not whole is mended where that can be done in one way only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

from tools.calls import ToolCall
from tools.formats.loose_json import Brackets, NoJson, Quotes, is_whole, read_all
from tools.formats.message import MessageParser
from tools.formats.tags import Token

_BARE = '{"name":'
_MOST_BLANK = 100
_OPENED = re.compile(r"<tool_call>\s*[\[{]")
_BRACE = re.compile(r"\n[^\S\n]*\{")
_FIRST_BRACE = re.compile(r"\s*\{")


class _End(NamedTuple):
    """A `</tool_call>` that may stand inside a string: its place in the body and in all that was
    read."""

    body: int
    raw: int


class HermesParser(MessageParser):
    """opened → (a bracket) body; text → (`{"name":` at the beginning of a line) bare

    A bare call has no `<tool_call>` before it. It is one if `</tool_call>` follows, or if the
    message ends and the tool is declared.
    """

    strings_only: ClassVar[bool] = False

    def __init__(self, *, thinking: bool = False, declared: Collection[str] | None = None) -> None:
        super().__init__(thinking=thinking, declared=declared)
        self._body: list[str] = []
        self._quotes = Quotes()
        self._ends: list[_End] = []
        self._maybe = ""
        self._line_start = True
        self._brackets = Brackets()

    def _opened(self, token: Token) -> None:
        if token.is_blank:
            self._held.append(token.raw)
        elif token.kind == "/tool_call":
            self._empty_block()
        elif token.kind == "text" and token.raw.lstrip()[0] in "{[":
            self._body, self._quotes, self._ends = [], Quotes(), []
            self._add(token)
            self._state = self._in_body
        else:
            self._not_a_call()
            self._text(token)

    def _in_body(self, token: Token) -> None:
        if token.kind not in ("tool_call", "/tool_call"):
            self._add(token)
            return
        closed = token.kind == "/tool_call"
        if self._quotes.in_string:
            if closed:
                self._ends.append(_End(len(self._body), len(self._raw)))
            self._add(token)
            if closed and not self._may_read_again():
                self._end_at_first()
            return
        body = "".join(self._body)
        if self._ends and not is_whole(body):
            self._add(token)
            self._end_at_first()
            return
        self._take(body, closed=closed)
        if not closed:
            self._text(token)

    def _add(self, token: Token) -> None:
        self._body.append(token.raw)
        self._quotes.feed(token.raw)

    def _end_at_first(self) -> None:
        """No end makes the JSON whole, so the first one is meant; what follows is read again."""
        first = self._ends[0]
        rest = "".join(self._body[first.body + 1 :])
        del self._raw[first.raw :]
        self._take("".join(self._body[: first.body]), closed=True)
        self._read_again(rest)

    def _take(self, body: str, *, closed: bool) -> None:
        self._state = self._text
        self._line_start = True
        calls = self._calls_of(body)
        self._block_open = False
        if calls is None:
            self._say("".join((*self._held, body, "</tool_call>" if closed else "")))
            return
        if not closed:
            self._problem("a <tool_call> was not closed")
        self._calls += calls
        self._closable = not closed

    def _calls_of(self, body: str) -> list[ToolCall] | None:
        """None, and a problem, if there is anything but calls."""
        try:
            read = read_all(body.strip())
        except NoJson as error:
            self._problem(f"a call could not be read and is taken as text: {error}")
            return None
        values: list[Any] = []
        for value in read.values:
            values += value if isinstance(value, list) else [value]
        calls = [self._call_of(value) for value in values]
        if not calls or None in calls:
            self._problem("a call without a name or with wrong arguments is taken as text")
            return None
        if len(calls) > 1:
            self._problem("several calls were in one <tool_call>")
        for problem in read.problems:
            self._problem(f"the call of {values[0]['name']}: {problem}")
        return [call for call in calls if call is not None]

    def _call_of(self, value: Any) -> ToolCall | None:
        """None if it is no call."""
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or not name.strip():
            return None
        name = name.strip()
        arguments = value.get("arguments")
        if arguments is None and "parameters" in value:
            self._problem(f"the arguments of {name} were called parameters")
            arguments = value["parameters"]
        if isinstance(arguments, str) and arguments.strip():
            self._problem(f"the arguments of {name} were JSON inside a string")
            arguments = _inner(arguments)
        if arguments is None or arguments == "" or arguments == []:
            self._problem(f"the call of {name} had no arguments")
            arguments = {}
        return ToolCall(name=name, arguments=arguments) if isinstance(arguments, dict) else None

    # ---- without `<tool_call>` ---------------------------------------------------------------

    def _text(self, token: Token) -> None:
        if token.kind != "text":
            self._flush()
        super()._text(token)
        if token.kind in ("think", "/tool_call"):
            self._line_start = True

    def _end_thought(self, thought: str) -> None:
        super()._end_thought(thought)
        self._line_start = True
        self._maybe = ""

    def _tag_in_text(self, token: Token) -> None:
        if token.kind != "text":
            self._say(token.raw)
            self._line_start = False
            return
        text, self._maybe = self._maybe + token.raw, ""
        start = 0
        while (brace := self._brace_of_line(text, start)) is not None:
            self._plain(text[start:brace])
            compact = "".join(text[brace : brace + _MOST_BLANK].split())
            if compact.startswith(_BARE):
                self._body, self._brackets = [], Brackets()
                self._state = self._in_bare
                self._give_back(text[brace:])
                return
            if len(text) - brace < _MOST_BLANK and _BARE.startswith(compact):
                self._maybe = text[brace:]
                return
            self._plain("{")
            start = brace + 1
        self._plain(text[start:])

    def _brace_of_line(self, text: str, start: int) -> int | None:
        """Where the first `{` stands that begins a line."""
        found = _FIRST_BRACE.match(text, start) if self._line_start else None
        found = found or _BRACE.search(text, start)
        return None if found is None else found.end() - 1

    def _in_bare(self, token: Token) -> None:
        is_tag = token.kind in ("think", "tool_call", "/tool_call")
        if not self._brackets.ended and not (is_tag and not self._brackets.in_string):
            own = self._brackets.feed(token.raw)
            self._body.append(token.raw[:own])
            if own < len(token.raw):
                self._give_back(token.raw[own:])
        elif token.is_blank:
            self._body.append(token.raw)
        elif token.kind == "/tool_call":
            self._end_bare(closed=True)
        else:
            self._end_bare(closed=False, followed=True)
            self._text(token)

    def _end_bare(self, *, closed: bool, followed: bool = False) -> None:
        body = "".join(self._body)
        self._state = self._text
        self._line_start = True
        may_be = closed or (self._declared is not None and not followed)
        calls = self._calls_of(body) if may_be else None
        if calls is None or not all(self._is_declared(call.name) for call in calls):
            self._plain(body + ("</tool_call>" if closed else ""))
            return
        for call in calls:
            self._problem(f"the call of {call.name} had no <tool_call> before it")
        self._calls += calls
        self._closable = not closed

    def _plain(self, text: str) -> None:
        self._say(text)
        line = text.rpartition("\n")
        self._line_start = not line[2].strip() and (bool(line[1]) or self._line_start)

    def _flush(self) -> None:
        maybe, self._maybe = self._maybe, ""
        if maybe:
            self._plain(maybe)

    # ---- what the base asks ------------------------------------------------------------------

    def _end_open_call(self, cut_off: bool) -> bool:
        self._flush()
        if self._state == self._opened:
            self._not_a_call()
        elif self._state == self._in_bare:
            self._end_bare(closed=False)
        elif self._state == self._in_body:
            body = "".join(self._body)
            if self._ends:
                self._end_at_first()
                return True
            if cut_off and not is_whole(body):
                self._problem("a <tool_call> was cut off and is not taken")
                self._state = self._text
            else:
                self._take(body, closed=False)
        elif self._block_open:
            self._problem("a <tool_call> was not closed")
        return False

    def _reads_calls(self) -> bool:
        return self._state == self._in_body

    def _keeps_think(self) -> bool:
        if self._state == self._in_bare:
            return self._brackets.in_string
        return self._state == self._in_body

    def _find_call(self, thought: str) -> int | None:
        found = _OPENED.search(thought)
        return None if found is None else found.start()


def _inner(arguments: str) -> Any:
    """What a string of arguments says; the string if it is no JSON."""
    try:
        values = read_all(arguments).values
    except NoJson:
        return arguments
    return values[0] if len(values) == 1 else arguments
