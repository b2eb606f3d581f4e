"""Values that Python's JSON reads and that nothing behind it can hold: they would fail later, in a
store, a tokenizer or an answer.

Numbers that are none, numbers beyond 64 bits, and halves of characters (lone surrogates).
"""

from __future__ import annotations

import json
import math
import re

# A body without any of these, as nearly all are, is not read twice.
_SUSPICIOUS = re.compile(rb"\\u[dD][89a-fA-F]|NaN|Infinity|\d{19}|[eE]\+?\d{3}")
_DIGITS = 20  # of the longest number of 64 bits, with its sign


def flaw_of(body: bytes) -> str | None:
    """What cannot be held, None if all can. A body that is no JSON is for others to refuse."""
    if _SUSPICIOUS.search(body) is None:
        return None
    try:
        read = json.loads(body, parse_constant=_refused, parse_int=_integer, parse_float=_finite)
        json.dumps(read, ensure_ascii=False).encode()
    except _OutOfRange as flaw:
        return str(flaw)
    except UnicodeEncodeError:
        return "a text in the body has one half of a character (a lone surrogate)"
    except ValueError:
        return None
    return None


class _OutOfRange(Exception):
    pass


def _refused(text: str) -> float:
    raise _OutOfRange(f"the body has {text}, which is no number in JSON")


def _integer(text: str) -> int:
    if len(text) <= _DIGITS and -(1 << 63) <= int(text) < 1 << 64:
        return int(text)
    raise _OutOfRange("the body has a whole number beyond 64 bits")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _OutOfRange("the body has a number beyond 64 bits")
    return number
