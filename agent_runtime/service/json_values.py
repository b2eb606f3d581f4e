"""Values that Python's JSON reads and that nothing behind it can hold: they would fail later, in a
store, a tokenizer or an answer.

Numbers that are none, numbers beyond 64 bits, and halves of characters (lone surrogates).

They are found without parsing. What costs more than one pass over the bytes is done where there is
what looks like a flaw, and nothing in Python for each of many values, so that nobody can make a
body dear by such values:

    escapes ── halves of characters? ── strings are taken out ── blocks with large numbers
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import compress, repeat

import numpy as np

# Digits are all alike, and so are letters in both cases: what is searched for is one literal each,
# which is many times faster than a class of characters.
_ALIKE = bytes.maketrans(b"123456789EDABCF", b"000000000edabcf")
_OF_HALVES = b"\\ud"
_NO_NUMBERS = (b"NaN", b"Infinity")
_LARGE = (b"0" * 19, b"e000", b"e+000")
_SUSPICIOUS = (_OF_HALVES, *_NO_NUMBERS, *_LARGE)
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])"  # without a second one
    rb"|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])",  # without a first one
    re.DOTALL,
)
_BLOCK = 1 << 18  # bytes
_WORD = re.compile(rb"[\w.+-]*")
_APART = bytes(one if one in b"0123456789.eE+-" else ord(" ") for one in range(256))
_SHORT = 18  # characters of a number that is not too large, if it has no exponent
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
    flaws = (flaw for block in _with_large(values) if (flaw := _in_block(block)) is not None)
    return next(flaws, None)


def _outside_strings(text: bytes) -> bytes:
    """text: without escaped quotes"""
    marks = np.frombuffer(text, dtype=np.uint8)
    inside = np.bitwise_xor.accumulate((marks == ord('"')).view(np.uint8))
    outside: bytes = marks[inside == 0].tobytes()
    return outside


def _with_large(values: bytes) -> Iterator[bytes]:
    """Blocks that have numbers of many digits, or with large exponents; none is cut in two."""
    start = 0
    while start < len(values):
        word = _WORD.match(values, start + _BLOCK)
        assert word is not None, "it has no least length"
        block = values[start : word.end()]
        alike = block.translate(_ALIKE)
        if any(one in alike for one in _LARGE):
            yield block
        start += len(block)


def _in_block(block: bytes) -> str | None:
    numbers = block.replace(b"true", b" ").replace(b"false", b" ").translate(_APART).split()
    try:
        infinite = next(compress(numbers, map(math.isinf, map(float, numbers))), None)
    except ValueError:  # one is no number in JSON, and refused as that
        return None
    if infinite is not None and not infinite.lstrip(b"-").isdigit():
        return "the body has a number beyond 64 bits"
    long = list(compress(numbers, map(_SHORT.__lt__, map(len, numbers))))
    whole = list(compress(long, map(bytes.isdigit, map(bytes.lstrip, long, repeat(b"-")))))
    if whole and (
        max(map(len, whole)) > _DIGITS
        or max(map(int, whole)) >= 1 << 64
        or min(map(int, whole)) < -(1 << 63)
    ):
        return "the body has a whole number beyond 64 bits"
    return None
