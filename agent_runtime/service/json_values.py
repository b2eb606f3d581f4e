"""Values that Python's JSON reads and that nothing behind it can hold: they would fail later, in a
store, a tokenizer or an answer.

Numbers that are none, numbers beyond 64 bits, and halves of characters (lone surrogates).

They are found without parsing. What costs more than one pass over the bytes is done for what looks
like a flaw alone, so that nobody can make a body dear by one such value among many others:

    escapes ── halves of characters? ── strings are taken out ── numbers that may be too large
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

# Digits are all alike, and so are letters in both cases: what is searched for is one literal each,
# which is many times faster than a class of characters.
_ALIKE = bytes.maketrans(b"123456789EDABCF", b"000000000edabcf")
_OF_HALVES = b"\\ud"
_NO_NUMBERS = (b"NaN", b"Infinity")
_SUSPICIOUS = (_OF_HALVES, *_NO_NUMBERS, b"0" * 19, b"e000", b"e+000")
_HALF = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])"  # without a second one
    rb"|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]",  # without a first one
    re.DOTALL,
)
_LARGE = (re.compile(rb"0{19}"), re.compile(rb"e\+?000"))
_OF_NUMBERS = b"0123456789.eE+-"
_NUMBER = re.compile(rb"[\d.eE+-]*+")
_FLOAT = re.compile(rb"[.eE]")
_DIGITS = 20  # of the longest number of 64 bits, with its sign


def flaw_of(body: bytes) -> str | None:
    """What cannot be held, None if all can. A body that is no JSON is for others to refuse, and may
    be said to have a flaw."""
    alike = body.translate(_ALIKE)
    if not any(one in alike for one in _SUSPICIOUS):
        return None
    text = body.replace(rb"\\", b"..").replace(rb"\"", b"..")
    if _OF_HALVES in alike and _HALF.search(text) is not None:
        return "a text in the body has one half of a character (a lone surrogate)"
    values = _outside_strings(text)
    for one in _NO_NUMBERS:
        if one in values:
            return f"the body has {one.decode()}, which is no number in JSON"
    flaws = (flaw for number in _large(values) if (flaw := _of_number(number)) is not None)
    return next(flaws, None)


def _outside_strings(text: bytes) -> bytes:
    """text: without escaped quotes"""
    marks = np.frombuffer(text, dtype=np.uint8)
    inside = np.bitwise_xor.accumulate((marks == ord('"')).view(np.uint8))
    outside: bytes = marks[inside == 0].tobytes()
    return outside


def _large(values: bytes) -> Iterator[bytes]:
    """Numbers of many digits, or with large exponents."""
    alike = values.translate(_ALIKE)
    for large in _LARGE:
        end = 0
        for found in large.finditer(alike):
            if found.start() < end:
                continue  # a part of the one before
            start = _start(values, found.start())
            number = _NUMBER.match(values, start)
            assert number is not None, "it has no least length"
            end = number.end()
            yield number[0]


def _start(values: bytes, place: int) -> int:
    """Of the number there."""
    start = place
    while start:
        before = values[max(0, start - 32) : start]
        others = len(before.rstrip(_OF_NUMBERS))
        start -= len(before) - others
        if others:
            break
    return start


def _of_number(text: bytes) -> str | None:
    try:
        if _FLOAT.search(text) is not None:
            return "the body has a number beyond 64 bits" if math.isinf(float(text)) else None
        if len(text) <= _DIGITS and -(1 << 63) <= int(text) < 1 << 64:
            return None
    except ValueError:  # it is no number in JSON, and refused as that
        return None
    return "the body has a whole number beyond 64 bits"
