"""Whether what others wrote can be the JSON schema of a tool's arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    StrictStr,
    ValidationError,
)
from pydantic_core import core_schema

_MOST_SHOWN = 200
_ONE = ("not", "if", "then", "else")
_SEVERAL = ("allOf", "anyOf", "oneOf")


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


def objects_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """All of those in a value, itself included."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one


# ---- shape -----------------------------------------------------------------------------------


def _unless_boolean(value: Any, read: core_schema.ValidatorFunctionWrapHandler) -> Schema | bool:
    return value if isinstance(value, bool) else read(value)


def _schema_or_boolean(part: Any, build: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    """Of a union pydantic would tell what is wrong once for each of its members."""
    schema, _ = get_args(part)
    return core_schema.no_info_wrap_validator_function(
        _unless_boolean, build.generate_schema(schema)
    )


Part = Annotated["Schema | bool", GetPydanticSchema(_schema_or_boolean)]


class Schema(BaseModel):
    """What of a schema must have a shape."""

    model_config = ConfigDict(extra="allow")

    ref: StrictStr = Field(default="", alias="$ref")
    defs: dict[str, Part] = Field(default={}, alias="$defs")
    definitions: dict[str, Part] = {}
    properties: dict[str, Part] = {}
    unevaluated_properties: Part = Field(default=True, alias="unevaluatedProperties")
    unevaluated_items: Part = Field(default=True, alias="unevaluatedItems")
    required: list[StrictStr] = []
    enum: list[Any] = []
    all_of: list[Part] = Field(default=[], alias="allOf")
    any_of: list[Part] = Field(default=[], alias="anyOf")
    one_of: list[Part] = Field(default=[], alias="oneOf")


def _endless_in(root: Any) -> str | None:
    """A reference that leads back to itself without going into the value, if there is one."""
    done: set[int] = set()
    for start in objects_in(root):
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
