"""Reads a string as what a JSON schema asks for: XML calls hold nothing but strings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.budget import bounded
from tools.canonical import loads
from tools.schemas import referred
from tools.validation import OfflineValidator, of_wrong_type

_MOST_SAID = 1000  # characters
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def typed(
    arguments: Mapping[str, Any], schema: Mapping[str, Any], *, quoted: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The arguments with strings read as what `schema` (of type object) says of each; notes.

    A string stays one where the schema allows that. Where nothing fits, the value that explains
    best what is wrong is kept: nothing is dropped. A schema that cannot be used leaves strings as
    they are, and is noted.

    quoted: strings were written as such, so that they are read as something else only where the
            schema takes no string
    """
    properties = properties_of(schema)
    read: dict[str, Any] = {}
    notes = []
    with bounded(arguments):
        for name, value in arguments.items():
            if isinstance(value, str) and isinstance(properties.get(name), Mapping):
                try:
                    validator = OfflineValidator(schema).evolve(schema=properties[name])
                    value, note = _read(value, validator, quoted)
                except Exception as error:  # references, patterns: wrong in many ways, or endless
                    note = f"its schema cannot be used: {error}"
                notes += [f"{name}: {note}"] if note else []
            read[name] = value
    return read, notes


def properties_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """By name; none if the schema says nothing of them, or nothing that can be understood."""
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Of the properties that have one, beside or behind a reference."""
    found = {}
    for name, part in properties_of(schema).items():
        followed: set[int] = set()
        while isinstance(part, Mapping) and id(part) not in followed:
            if "default" in part:
                found[name] = part["default"]
                break
            followed.add(id(part))
            several = part.get("allOf")
            if isinstance(several, list) and len(several) == 1:
                part = several[0]
            else:
                part = referred(part.get("$ref"), schema)
    return found


def _read(value: str, validator: OfflineValidator, quoted: bool) -> tuple[Any, str]:
    """`null` is null wherever that is allowed, as in SGLang's parsers; any other text that a schema
    takes as a string and as something else is a string. And what was ambiguous, if anything."""
    meant = _as_json(value)
    as_json = not isinstance(meant, _Nothing) and validator.is_valid(meant)
    if validator.is_valid(value):
        if quoted or not as_json or isinstance(meant, str):
            return value, ""
        if meant is None:
            return None, f"{value} is taken as no value, and not as text"
        return value, f"{_short(value)} is taken as text, and not as {_kind(meant)}"
    if as_json:
        return meant, ""
    if isinstance(meant, _Nothing | str) or _takes_text(validator, value):
        # Blanks around a value are the writer's, wherever they would make it wrong: a grammar lets
        # an engine write them, and every value but text is read without them.
        bare = value.strip()
        return (bare if not quoted and validator.is_valid(bare) else value), ""
    return meant, ""


def expected(schema: Any, root: Mapping[str, Any]) -> str:
    """What a schema asks for, in a few words."""
    said = _expected(schema, root, set())
    return said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]}…"


def _expected(schema: Any, root: Mapping[str, Any], named: set[str]) -> str:
    """named: the references that were looked up; one that comes again is told by its name"""
    if not isinstance(schema, Mapping):
        return "nothing" if schema is False else "any value"
    while "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        if name in named:
            return name
        named.add(name)
        schema = (root.get("$defs") or root.get("definitions") or {}).get(name, {})
        if not isinstance(schema, Mapping):
            return _expected(schema, root, named)
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(one) for one in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(
                dict.fromkeys(_expected(one, root, named) for one in schema[several])
            )
    kind = schema.get("type", "any value")
    if isinstance(kind, list):
        return " or ".join(map(str, kind))
    if kind == "array" and isinstance(schema.get("items"), Mapping) and schema["items"]:
        return f"array of {_expected(schema['items'], root, named)}"
    if kind == "object" and schema.get("required"):
        return f"object with {', '.join(schema['required'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{kind} from {low:g} to {high:g}"
    if low is not None:
        return f"{kind} of at least {low:g}"
    return f"{kind} of at most {high:g}" if high is not None else str(kind)


class _Nothing:
    """No JSON value."""


def _as_json(value: str) -> Any:
    text = value.strip()
    try:
        return loads(_PYTHON.get(text, text))
    except (ValueError, RecursionError):
        return _Nothing()


def _takes_text(validator: OfflineValidator, value: str) -> bool:
    """Whether some string would do, so that this one is only a wrong string."""
    return not of_wrong_type(validator.iter_errors(value))


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "an array"}
    return kinds.get(type(value), "an object")


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:40]}…"
