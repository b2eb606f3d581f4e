"""Reads JSON as models write it: whole, or mended where that can be done in one way only."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_BETWEEN = re.compile(r"[\s,;]*")
_TOO_MANY = re.compile(r"[\s}\]]+")


class NoJson(ValueError):
    """It cannot be read, or could be in several ways."""


@dataclass(frozen=True)
class Read:
    """problems: what was tolerated, one sentence each"""

    values: list[Any]
    problems: list[str]


@dataclass
class Brackets:
    """Follows JSON through its brackets and strings, however it is split.

    ended: the outermost bracket was closed
    """

    open: list[str] = field(default_factory=list)
    in_string: bool = False
    ended: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> int:
        """How many characters of `text` belong to the value."""
        for number, character in enumerate(text):
            if self.ended:
                return number
            if self._escaped:
                self._escaped = False
            elif self.in_string:
                self._escaped = character == "\\"
                self.in_string = character != '"'
            elif character == '"':
                self.in_string = True
            elif character in "{[":
                self.open.append("}" if character == "{" else "]")
            elif character in "}]" and self.open:
                self.open.pop()
                self.ended = not self.open
        return len(text)


@dataclass
class Quotes:
    """Follows JSON through its strings, of whichever values it is, however it is split."""

    in_string: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> None:
        for character in text:
            if self._escaped:
                self._escaped = False
            elif self.in_string:
                self._escaped = character == "\\"
                self.in_string = character != '"'
            else:
                self.in_string = character == '"'


def is_whole(text: str) -> bool:
    """Whether it is one JSON value or several, with nothing to mend but line breaks in strings."""
    try:
        _decode_all(text, strict=False)
    except NoJson:
        return False
    return True


def read_all(text: str) -> Read:
    """All values of a text. Raises NoJson."""
    try:
        return _decode_all(text, strict=True)
    except NoJson as error:
        why = error
    try:
        return _also(_decode_all(text, strict=False), "line breaks in strings were not escaped")
    except NoJson:
        pass
    brackets = Brackets()
    if brackets.feed(text.strip()) and brackets.open and not brackets.in_string:
        closed = text + "".join(reversed(brackets.open))
        try:
            return _also(_decode_all(closed, strict=False), "closing brackets were missing")
        except NoJson:
            pass
    return _python(text, why)


def _decode_all(text: str, *, strict: bool) -> Read:
    problems: dict[str, None] = {}

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                problems[f"{name} was given more than once; the last one counts"] = None
        return dict(pairs)

    def number(written: str) -> float | str:
        value = float(written)
        if math.isfinite(value):
            return value
        problems["a number that is too large for one is taken as text"] = None
        return written

    decoder = json.JSONDecoder(
        object_pairs_hook=members,
        parse_constant=lambda name: name,
        parse_float=number,
        strict=strict,
    )
    values: list[Any] = []
    position = len(text) - len(text.lstrip())
    while position < len(text):
        if values and _TOO_MANY.fullmatch(text, position):
            problems["there were too many closing brackets"] = None
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise NoJson(str(error)) from error
        values.append(value)
        between = _BETWEEN.match(text, position)
        position = position if between is None else between.end()
    if not values:
        raise NoJson("there is nothing")
    return Read(values, list(problems))


def _python(text: str, why: NoJson) -> Read:
    """A dict or list as Python writes it. Raises NoJson, for the reason why it is no JSON."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            value = ast.literal_eval(text.strip())
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise why from None
    if not isinstance(value, dict | list):
        raise why
    return Read([json.loads(json.dumps(value))], ["it was written as Python and not as JSON"])


def _also(read: Read, problem: str) -> Read:
    return Read(read.values, [*read.problems, problem])
