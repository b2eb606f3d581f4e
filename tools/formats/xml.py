"""The XML format of Nemotron 3 and Qwen3-Coder.

    <think>…</think>text
    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

A value ends at the first `</parameter>`; failing that at `</function>`, `</tool_call>`,
`<parameter=…>` or a whole new `<tool_call><function=…>`. So a value cannot contain those tags
(SGLang's parser reads it likewise); any other text, `<tool_call>` and `<think>` included, is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

from tools.calls import ToolCall
from tools.formats.message import MessageParser
from tools.formats.tags import Token, find_call

# As models have bent it: `</parameter`, `</parameter1>`, `</parameter/>`, `</parameter_function>`.
_BENT_END = re.compile(r"\n?</parameter[^<>\n]{0,12}>?\s*\Z")


class _Open(NamedTuple):
    """A call being read. `bare`: it had no `<tool_call>` before it."""

    name: str
    arguments: dict[str, Any]
    bare: bool


class XmlParser(MessageParser):
    """opened → (<function=>) function ⇄ (<parameter=>) value"""

    strings_only: ClassVar[bool] = True

    def __init__(self, *, thinking: bool = False, declared: Collection[str] | None = None) -> None:
        super().__init__(thinking=thinking, declared=declared)
        self._call = _Open("", {}, bare=True)
        self._tentative = False
        self._key = ""
        self._value_parts: list[str] = []
        self._opener_in_value: int | None = None  # with nothing but blanks behind it

    def _tag_in_text(self, token: Token) -> None:
        if token.kind == "function" and (self._block_open or self._is_declared(token.name)):
            self._held = [token.raw]
            self._begin_call(token.name)
        else:
            self._say(token.raw)

    def _end_open_call(self, cut_off: bool) -> bool:
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
        return False

    def _reads_calls(self) -> bool:
        return self._state == self._function

    def _keeps_think(self) -> bool:
        return self._state == self._value

    def _find_call(self, thought: str) -> int | None:
        return find_call(thought)

    def _opened(self, token: Token) -> None:
        if token.is_blank:
            self._held.append(token.raw)
        elif token.kind == "function":
            self._begin_call(token.name)
        elif token.kind == "/tool_call":
            self._empty_block()
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
            case "function" if self._opener_in_value is not None:
                opener = self._opener_in_value
                del self._value_parts[opener:]
                self._end_value(closed=False)
                self._end_call(closed=False)
                self._block_open = True
                self._begin_call(token.name)
            case _:
                if token.kind == "tool_call":
                    self._opener_in_value = len(self._value_parts)
                elif not token.is_blank:
                    self._opener_in_value = None
                self._value_parts.append(token.raw)

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
        if not closed:
            value = _BENT_END.sub("", value)
        self._call.arguments[self._key] = value.removeprefix("\n").removesuffix("\n")
        self._state = self._function
