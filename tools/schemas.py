"""JSON schemas that others wrote: never followed to the network, and checked in bounded time.

A client, an MCP server or a model says what is checked against what, in a process that serves
everybody. So a check takes a limited number of steps, and patterns limited time: see `patterns.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as Violation
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, WrapValidator
from referencing import Registry

from tools.canonical import canonical
from tools.errors import ToolsError
from tools.patterns import is_found, is_found_linearly

_STEPS = 10_000  # that any check may take: about a quarter of a second
_CHARACTERS = 2  # of what is checked that allow one step more
_ELEMENTS = 64  # of a list or an object that count as one more step
_TEXT = 256  # characters that do
_MOST_SHOWN = 200
_SECONDS = 0.25  # that all patterns together may take which are not run in linear time
_ONE = ("not", "if", "then", "else")
_SEVERAL = ("allOf", "anyOf", "oneOf")

Keyword = Callable[[Any, Any, Any, Any], Iterator[Violation] | None]


class TooCostly(ToolsError):
    """A check was given up: it would have taken too many steps."""


def flaw_of(parameters: Any) -> str | None:
    """Why this cannot be the JSON schema of a tool's arguments, None if it can.

    Looked at is what the reading of calls relies on: the shape of the usual keywords, and that no
    schema is applied to the same value without end.
    """
    try:
        Schema.model_validate(parameters)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the schema'}: {first['msg']}"
    return _endless_in(parameters)


def offline_validator(schema: Mapping[str, Any]) -> Validator:
    """For a schema that may come from anywhere; it is used inside `bounded`.

    Not checked is `unevaluatedProperties`.
    """
    validator: Validator = _Offline(schema, registry=Registry())
    return validator


def referred(ref: Any, root: Any) -> Any:
    """What a pointer into the same schema leads to; None for any other reference."""
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        return None
    found = root
    for step in unquote(ref).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


@contextlib.contextmanager
def bounded(values: Any) -> Iterator[None]:
    """All checks inside raise TooCostly once they have taken too many steps together: many more
    than it takes to look at everything in `values` once; and Undecided for a pattern that takes too
    long. Inside another `bounded`, that one counts.
    """
    if _budget.get() is not None:
        yield
        return
    token = _budget.set(_Budget(_STEPS + _written(values) // _CHARACTERS))
    try:
        yield
    finally:
        _budget.reset(token)


# ---- bounds ----------------------------------------------------------------------------------


@dataclass
class _Budget:
    """What is left."""

    steps: int
    seconds: float = _SECONDS


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


def _charged(name: str, keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation] | None:
        budget = _budget.get()
        assert budget is not None, "a schema of others is checked inside `bounded`"
        # Each part of several may tell in words what it was held against.
        times = _size(value) if name in _SEVERAL else 1
        budget.steps -= 1 + _weight(value) + times * _weight(instance)
        if budget.steps < 0:
            raise TooCostly("to check it takes too long")
        return keyword(validator, value, instance, schema)

    return check


def _unique_items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    """In linear time: jsonschema compares all elements with all others."""
    if not value or not validator.is_type(instance, "array"):
        return
    if len({canonical(one) for one in instance}) < len(instance):
        yield Violation(f"{instance!r} has non-unique elements")


def _written(values: Any) -> int:
    """Characters, about."""
    try:
        return len(repr(values))
    except RecursionError:
        return 0


def _weight(value: Any) -> int:
    return _size(value) // (_TEXT if isinstance(value, str) else _ELEMENTS)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


# ---- patterns --------------------------------------------------------------------------------


def _pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if validator.is_type(instance, "string") and not _matches(value, instance):
        yield Violation(f"{instance!r} does not match {value!r}")


def _pattern_properties(
    validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[Violation]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, part in value.items():
        for name, one in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(one, part, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[Violation]:
    if not validator.is_type(instance, "object"):
        return
    patterns = schema.get("patternProperties", {})
    known = schema.get("properties", {})
    extras = [
        name
        for name in instance
        if name not in known and not any(_matches(pattern, name) for pattern in patterns)
    ]
    if validator.is_type(value, "object"):
        for name in extras:
            yield from validator.descend(instance[name], value, path=name)
    elif not value and extras:
        names = ", ".join(map(repr, extras))
        yield Violation(f"Additional properties are not allowed ({names})")


def _matches(pattern: str, text: str) -> bool:
    """Raises what `is_found` raises."""
    linearly = is_found_linearly(pattern, text)
    if linearly is not None:
        return linearly
    budget = _budget.get()
    assert budget is not None, "a schema of others is checked inside `bounded`"
    started = time.thread_time()
    try:
        return is_found(pattern, text, seconds=budget.seconds)
    finally:
        budget.seconds -= time.thread_time() - started


_KEYWORDS: dict[str, Keyword] = dict(Draft202012Validator.VALIDATORS) | {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
# It runs patterns by itself.
del _KEYWORDS["unevaluatedProperties"]
_Offline = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {name: _charged(name, keyword) for name, keyword in _KEYWORDS.items()}
)


# ---- shape -----------------------------------------------------------------------------------


def _unless_boolean(value: Any, read: Callable[[Any], Schema]) -> Schema | bool:
    return value if isinstance(value, bool) else read(value)


Part = Annotated["Schema", WrapValidator(_unless_boolean)]


class Schema(BaseModel):
    """What of a schema must have a shape."""

    model_config = ConfigDict(extra="allow")

    ref: StrictStr = Field(default="", alias="$ref")
    defs: dict[str, Part] = Field(default={}, alias="$defs")
    definitions: dict[str, Part] = {}
    properties: dict[str, Part] = {}
    required: list[StrictStr] = []
    enum: list[Any] = []
    all_of: list[Part] = Field(default=[], alias="allOf")
    any_of: list[Part] = Field(default=[], alias="anyOf")
    one_of: list[Part] = Field(default=[], alias="oneOf")


def _endless_in(root: Any) -> str | None:
    """A reference that leads back to itself without going into the value, if there is one."""
    done: set[int] = set()
    for start in _objects(root):
        if "$ref" not in start:
            continue
        path, on_path = [(start, iter(_applied_with(start, root)))], {id(start)}
        while path:
            schema, rest = path[-1]
            following = next(rest, None)
            if following is None:
                path.pop()
                on_path.discard(id(schema))
                done.add(id(schema))
            elif id(following) in on_path:
                return f"the reference {str(start['$ref'])[:_MOST_SHOWN]!r} leads back to itself"
            elif id(following) not in done:
                path.append((following, iter(_applied_with(following, root))))
                on_path.add(id(following))
    return None


def _applied_with(schema: Mapping[str, Any], root: Any) -> list[Mapping[str, Any]]:
    """The schemas that this one applies to the same value."""
    parts: list[Any] = [referred(schema["$ref"], root)] if "$ref" in schema else []
    parts += [schema.get(keyword) for keyword in _ONE]
    for keyword in _SEVERAL:
        several = schema.get(keyword)
        parts += several if isinstance(several, list) else []
    named = schema.get("dependentSchemas")
    parts += named.values() if isinstance(named, Mapping) else []
    return [part for part in parts if isinstance(part, Mapping)]


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one
