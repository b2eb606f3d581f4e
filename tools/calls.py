"""Reads the tool calls in a model's message: the XML format of Nemotron 3 and Qwen3-Coder.

    <think>…</think>text
    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

Models bend this format, so reading it is tolerant, and everything tolerated is reported in
`ParsedMessage.problems`. One incremental parser does the work: the result never depends on where
the text was split.

A value ends at the first `</parameter>`; failing that at `</function>`, `</tool_call>`,
`<parameter=…>` or a whole new `<tool_call><function=…>`. So a value cannot contain those tags
(SGLang's parser reads it likewise); any other text, `<tool_call>` and `<think>` included, is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from tools.tags import Lexer, Token, find_call


class ToolCall(BaseModel):
    """A call as the model wrote it: in the XML format every argument is a string."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, Any] = {}


@dataclass(frozen=True)
class ParsedMessage:
    """text: what is meant to be seen, without calls and thinking, blanks around it removed
    reasoning: what stood between the thinking tags
    problems:  every deviation from the format that was tolerated, one sentence each
    """

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    problems: tuple[str, ...]


def parse(text: str, *, thinking: bool = False, cut_off: bool = False) -> ParsedMessage:
    """Read a whole message. Never raises; see CallParser for the options."""
    parser = CallParser(thinking=thinking)
    parser.feed(text)
    return parser.finish(cut_off=cut_off)


class _Open(NamedTuple):
    """A call being read. `bare`: it had no `<tool_call>` before it."""

    name: str
    arguments: dict[str, Any]
    bare: bool


class CallParser:
    """Reads one message, piece by piece.

    thinking: the prompt already opened the thinking, so the message begins inside it.

    State: text → (<tool_call>) opened → (<function=>) function ⇄ (<parameter=>) value, and thought.
    `_held` is text of a beginning that may still turn out to be no call.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._lexer = Lexer()
        self._state: Callable[[Token], None] = self._thought if thinking else self._text
        self._raw: list[str] = []
        self._shown: list[str] = []
        self._fresh: list[str] = []
        self._blank = ""
        self._reasoning: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._problems: dict[str, None] = {}
        self._block_open = False
        self._closable = False
        self._held: list[str] = []
        self._call = _Open("", {}, bare=True)
        self._tentative = False
        self._key = ""
        self._value_parts: list[str] = []
        self._opener_in_value: int | None = None

    def feed(self, piece: str) -> str:
        """Take the next piece; return the visible text that has become certain.

        What `feed` returned is the beginning of the final `text`, unless `</think>` comes without
        its opener: then all before it was reasoning after all.
        """
        self._fresh = []
        for token in self._lexer.feed(piece):
            self._step(token)
        return "".join(self._fresh)

    def finish(self, *, cut_off: bool = False) -> ParsedMessage:
        """End the message.

        cut_off: generation stopped at a limit, so a call still open is incomplete and not taken.
                 Otherwise its missing ends are supplied.
        """
        for token in self._lexer.finish():
            self._step(token)
        while self._state == self._thought:
            self._end_unclosed_thought()
        if self._state == self._opened or (self._state == self._function and self._tentative):
            self._not_a_call()
        if self._state in (self._function, self._value):
            if cut_off:
                self._problem(f"the call of {self._call.name} was cut off and is not taken")
            else:
                if self._state == self._value:
                    self._end_value(closed=False)
                self._end_call(closed=False)
        elif self._block_open:
            self._problem("a <tool_call> was not closed")
        return ParsedMessage(
            text="".join(self._shown),
            reasoning="\n".join(self._reasoning),
            calls=tuple(self._calls),
            problems=tuple(self._problems),
        )

    def _step(self, token: Token) -> None:
        if token.kind == "/think" and self._state not in (self._thought, self._value):
            self._all_was_thinking()
            return
        self._raw.append(token.raw)
        self._state(token)

    def _text(self, token: Token) -> None:
        match token.kind:
            case "think":
                self._state = self._thought
            case "tool_call":
                if self._block_open:
                    self._problem("a <tool_call> was not closed")
                self._block_open = True
                self._held = [token.raw]
                self._state = self._opened
            case "function":
                self._held = [token.raw]
                self._begin_call(token.name)
            case "/tool_call" if self._block_open or self._closable:
                self._block_open = self._closable = False
            case _:
                self._say(token.raw)

    def _opened(self, token: Token) -> None:
        if token.is_blank:
            self._held.append(token.raw)
        elif token.kind == "function":
            self._begin_call(token.name)
        elif token.kind == "/tool_call":
            self._problem("a <tool_call> was empty")
            self._block_open = False
            self._state = self._text
        else:
            self._not_a_call()
            self._text(token)

    def _function(self, token: Token) -> None:
        if token.is_blank:
            self._held.append(token.raw)
        elif token.kind == "parameter":
            self._confirm()
            self._begin_value(token.name)
        elif token.kind == "/function":
            self._confirm()
            self._end_call(closed=True)
        elif self._tentative:
            self._not_a_call()
            self._text(token)
        elif token.kind in ("/tool_call", "tool_call", "function"):
            self._end_call(closed=False)
            if token.kind == "tool_call":
                self._block_open = False
            self._text(token)
        else:
            self._problem(f"text between the parameters of {self._call.name} was ignored")

    def _value(self, token: Token) -> None:
        match token.kind:
            case "/parameter":
                self._end_value(closed=True)
            case "parameter":
                self._end_value(closed=False)
                self._begin_value(token.name)
            case "/function" | "/tool_call":
                self._end_value(closed=False)
                self._function(token)
            case "function" if self._new_call_in_value():
                opener = self._opener_in_value
                del self._value_parts[opener:]
                self._end_value(closed=False)
                self._end_call(closed=False)
                self._block_open = True
                self._begin_call(token.name)
            case _:
                if token.kind == "tool_call":
                    self._opener_in_value = len(self._value_parts)
                self._value_parts.append(token.raw)

    def _thought(self, token: Token) -> None:
        if token.kind == "/think":
            self._end_thought("".join(self._thoughts))
        elif token.kind != "think" or any(not part.isspace() for part in self._thoughts):
            self._thoughts.append(token.raw)

    def _end_thought(self, thought: str) -> None:
        if thought.strip():
            self._reasoning.append(thought.strip())
        self._thoughts = []
        self._raw = []
        self._state = self._text

    def _end_unclosed_thought(self) -> None:
        """Calls inside thinking that never ended are meant: the model forgot `</think>`."""
        self._problem("the thinking was not closed")
        thought = "".join(self._thoughts)
        start = find_call(thought)
        self._end_thought(thought[:start])
        if start is not None:
            lexer = Lexer()
            for token in (*lexer.feed(thought[start:]), *lexer.finish()):
                self._step(token)

    def _all_was_thinking(self) -> None:
        self._problem("thinking was closed but never opened: all before it is taken as reasoning")
        if self._calls or self._state == self._function:
            self._problem("tool calls inside the thinking were not taken")
        self._calls, self._shown, self._fresh, self._blank = [], [], [], ""
        self._block_open = self._closable = False
        self._end_thought("".join(self._raw))

    def _say(self, text: str) -> None:
        if text.strip():
            if self._block_open:
                self._problem("a <tool_call> was not closed")
            if self._calls:
                self._problem("there was text after a tool call")
            self._block_open = self._closable = False
        whole = self._blank + text if self._shown else text.lstrip()
        body = whole.rstrip()
        self._blank = whole[len(body) :]
        if body:
            self._shown.append(body)
            self._fresh.append(body)

    def _not_a_call(self) -> None:
        self._problem(f"{self._held[0]} began no call and is taken as text")
        self._block_open = False
        self._state = self._text
        self._say("".join(self._held))

    def _begin_call(self, name: str) -> None:
        self._call = _Open(name, {}, bare=not self._block_open)
        self._tentative = self._call.bare
        self._state = self._function

    def _confirm(self) -> None:
        """A function without its opener is a call once a parameter or its end follows."""
        if self._call.bare:
            self._problem(f"the call of {self._call.name} had no <tool_call> before it")
        self._tentative = False

    def _end_call(self, *, closed: bool) -> None:
        if not closed:
            self._problem(f"the call of {self._call.name} was not closed")
        self._calls.append(ToolCall(name=self._call.name, arguments=self._call.arguments))
        self._closable = True
        self._state = self._text

    def _begin_value(self, key: str) -> None:
        self._key = key
        self._value_parts = []
        self._opener_in_value = None
        self._state = self._value

    def _end_value(self, *, closed: bool) -> None:
        where = f"parameter {self._key} of {self._call.name}"
        if not closed:
            self._problem(f"{where} was not closed")
        if self._key in self._call.arguments:
            self._problem(f"{where} was given more than once; the last one counts")
        value = "".join(self._value_parts)
        self._call.arguments[self._key] = value.removeprefix("\n").removesuffix("\n")
        self._state = self._function

    def _new_call_in_value(self) -> bool:
        opener = self._opener_in_value
        return opener is not None and not "".join(self._value_parts[opener + 1 :]).strip()

    def _problem(self, sentence: str) -> None:
        self._problems[sentence] = None
