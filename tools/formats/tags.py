"""Cuts a stream of text into the tags of the XML call format and the text between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_MOST_NAME = 200
_TAG = re.compile(
    r"<(?P<kind>/?think|/?tool_call|/function|/parameter)>"
    rf"|<(?P<named>function|parameter)=(?P<name>[^<>\n]{{1,{_MOST_NAME}}})>"
)
_FIXED = ("<think>", "</think>", "<tool_call>", "</tool_call>", "</function>", "</parameter>")
_NAMED = ("<function=", "<parameter=")
_NAME_BEGUN = re.compile(rf"<(?:function|parameter)=[^<>\n]{{0,{_MOST_NAME}}}")
_CALL = re.compile(
    rf"(?:<tool_call>\s*)?<function=[^<>\n]{{1,{_MOST_NAME}}}>\s*(?:<parameter=|</function>)"
)


class Token(NamedTuple):
    """kind: `text`, or a tag without its brackets: `think`, `/think`, `function`, …
    name: of a function or parameter tag, blanks around it removed
    raw:  exactly the characters that were read
    """

    kind: str
    name: str
    raw: str

    @property
    def is_blank(self) -> bool:
        return self.kind == "text" and self.raw.isspace()


class Lexer:
    """Holds back the end of the text while it may still become a tag.

    All tokens' `raw` joined are the text. No tag contains `<` after its first character, so only
    the last `<` matters, and at most `_MOST_NAME` + 11 characters are held.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> Iterator[Token]:
        """Yield the tokens that are certain once `piece` has come; consume it to the end."""
        text = self._held + piece
        last = text.rfind("<")
        cut = last if last >= 0 and _may_become_tag(text[last:]) else len(text)
        self._held = text[cut:]
        yield from _tokens(text[:cut])

    def finish(self) -> Iterator[Token]:
        """Yield what was held back: it became no tag."""
        held, self._held = self._held, ""
        if held:
            yield Token("text", "", held)


def find_call(text: str) -> int | None:
    """Where the first thing that looks like a whole beginning of a call stands, if anywhere."""
    found = _CALL.search(text)
    return found.start() if found else None


def _may_become_tag(tail: str) -> bool:
    return (
        any(tag.startswith(tail) and tag != tail for tag in _FIXED)
        or any(tag.startswith(tail) for tag in _NAMED)
        or _NAME_BEGUN.fullmatch(tail) is not None
    )


def _tokens(text: str) -> Iterator[Token]:
    end = 0
    for tag in _TAG.finditer(text):
        if tag.start() > end:
            yield Token("text", "", text[end : tag.start()])
        yield Token(tag["kind"] or tag["named"], (tag["name"] or "").strip(), tag[0])
        end = tag.end()
    if end < len(text):
        yield Token("text", "", text[end:])
