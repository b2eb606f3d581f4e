"""What a model wrote in a call, as JSON that everybody can read.

Python reads more as JSON than others do: halves of characters, NaN, any depth. What is read of a
call goes out as JSON, and comes back in what clients send, so it has the bounds of that.
"""

from __future__ import annotations

import math
import re
from typing import Any

from tools.calls import ToolCall

MOST_DEEP = 60  # levels of arguments; around them are those of a request's body, which has 64
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(call: ToolCall) -> tuple[ToolCall, list[str]]:
    """The call, and what was wrong with it. Halves of characters are replaced; arguments that are
    no JSON otherwise are left out, all of them: a part of a call was never meant."""
    name, problems = whole(call.name), []
    if why := _unclean(call.arguments):
        problems.append(f"the arguments of {name} are not taken: {why}")
        return ToolCall(name=name), problems
    arguments = _whole_in(call.arguments)
    if name != call.name or arguments != call.arguments:
        problems.append(f"the call of {name}: halves of characters were replaced")
    return ToolCall(name=name, arguments=arguments), problems


def whole(text: str) -> str:
    """Halves of characters have no place in any text."""
    return _SURROGATE.sub("\ufffd", text)


def _unclean(arguments: Any) -> str | None:
    level, depth = [arguments], 0
    while level:
        depth += 1
        below: list[Any] = []
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                return f"JSON has no {value}"
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        if depth > MOST_DEEP and any(isinstance(value, dict | list) for value in level):
            return f"they are nested more than {MOST_DEEP} deep"
        level = below
    return None


def _whole_in(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [_whole_in(one) for one in value]
    if isinstance(value, dict):
        return {whole(name): _whole_in(one) for name, one in value.items()}
    return value
