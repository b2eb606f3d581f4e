"""Reads the tool calls in a model's message, in the format that the model has learned.

Models bend their formats, so reading is tolerant, and everything tolerated is reported in
`ParsedMessage.problems`. Nothing raises. One incremental parser for each format does the work: the
result never depends on where the text was split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tools.calls import Fresh, ParsedMessage
from tools.errors import UnknownFormat
from tools.formats.clean import clean, whole
from tools.formats.declared import against
from tools.formats.hermes import HermesParser
from tools.formats.message import MessageParser
from tools.formats.xml import XmlParser
from tools.tool import ToolSpec

QWEN3_CODER = "qwen3_coder"
HERMES = "hermes"
FORMATS: dict[str, type[MessageParser]] = {
    QWEN3_CODER: XmlParser,
    "nemotron_3": XmlParser,
    HERMES: HermesParser,
    "qwen25": HermesParser,
}
"""By the names that SGLang's `--tool-call-parser` knows; Nemotron 3 has learned `qwen3_coder`."""


class CallParser:
    """Reads one message, piece by piece.

    format:   one of `FORMATS`; raises UnknownFormat
    tools:    that were declared to the model: arguments are read by their schemas, and calls are
              held against them. None if they are not known
    thinking: the prompt already opened the thinking, so the message begins inside it
    """

    def __init__(
        self,
        format: str = QWEN3_CODER,
        *,
        tools: Sequence[ToolSpec] | None = None,
        thinking: bool = False,
    ) -> None:
        if format not in FORMATS:
            raise UnknownFormat(f"no format {format!r} is known; use one of: {', '.join(FORMATS)}")
        declared = None if tools is None else {tool.name for tool in tools}
        self._parser = FORMATS[format](thinking=thinking, declared=declared)
        self._tools = tools

    def feed(self, piece: str) -> str:
        """See `MessageParser.feed`."""
        return self._parser.feed(piece)

    def read(self, piece: str) -> Fresh:
        """See `MessageParser.read`."""
        fresh = self._parser.read(piece)
        message = self._checked(ParsedMessage("", "", fresh.calls, ()))
        return dataclasses.replace(fresh, calls=message.calls)

    def finish(self, *, cut_off: bool = False) -> ParsedMessage:
        """See `MessageParser.finish`."""
        return self._checked(self._parser.finish(cut_off=cut_off))

    def _checked(self, message: ParsedMessage) -> ParsedMessage:
        """Its calls as clean JSON, before and after schemas have made values of strings."""
        message = _cleaned(message)
        if self._tools is None:
            return message
        return _cleaned(against(message, self._tools, strings_only=self._parser.strings_only))


def parse(
    text: str,
    format: str = QWEN3_CODER,
    *,
    tools: Sequence[ToolSpec] | None = None,
    thinking: bool = False,
    cut_off: bool = False,
) -> ParsedMessage:
    """Read a whole message; see CallParser. Raises UnknownFormat, and nothing for any text."""
    parser = CallParser(format, tools=tools, thinking=thinking)
    parser.feed(text)
    return parser.finish(cut_off=cut_off)


def _cleaned(message: ParsedMessage) -> ParsedMessage:
    cleaned = [clean(call) for call in message.calls]
    found = [problem for _, problems in cleaned for problem in problems]
    return dataclasses.replace(
        message,
        calls=tuple(call for call, _ in cleaned),
        problems=tuple(dict.fromkeys(map(whole, (*message.problems, *found)))),
    )
