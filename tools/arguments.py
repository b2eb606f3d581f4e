"""Checks what a model gives a tool, and tells it everything that is wrong at once."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jsonschema.exceptions import ValidationError as SchemaViolation
from pydantic import BaseModel, ValidationError

from tools.coercion import defaults_of, expected, properties_of, typed
from tools.schemas import bounded, offline_validator


@dataclass(frozen=True)
class Checked:
    """given: what the function is called with, None if anything is wrong
    arguments: the same as JSON values, those that were given
    left_out:  the same of those that have a default and were not given
    wrong: for the model, one line each; notes: ambiguities, for people
    """

    given: dict[str, Any] | None
    arguments: dict[str, Any]
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, Any]:
        """What the function is called with, as JSON values."""
        return {**self.left_out, **self.arguments}


class Arguments(Protocol):
    """The arguments that one tool takes."""

    def check(self, arguments: Mapping[str, Any]) -> Checked:
        """Strings are read as what the schema says, since XML calls hold nothing else."""


class ModelArguments:
    """Those of a Python function, as a pydantic model whose aliases are the parameters."""

    def __init__(self, model: type[BaseModel], schema: dict[str, Any]) -> None:
        self._model = model
        self._schema = schema

    def check(self, arguments: Mapping[str, Any]) -> Checked:
        read, notes = typed(arguments, self._schema)
        try:
            checked = self._model.model_validate(read)
        except ValidationError as error:
            lines = [
                _line(
                    self._schema,
                    item["loc"],
                    {"extra_forbidden": "unknown", "missing": "missing"}.get(item["type"], ""),
                    f"{item['msg']}, got {_short(item['input'])}",
                )
                for item in error.errors(include_url=False, include_context=False)
            ]
            return Checked(None, read, tuple(lines), tuple(notes))
        fields = type(checked).model_fields.items()
        given = {field.alias or key: getattr(checked, key) for key, field in fields}
        as_json = self._as_json(checked)
        left_out = {name: one for name, one in as_json.items() if name not in read}
        taken = {name: as_json.get(name, one) for name, one in read.items()}
        return Checked(given, taken, (), tuple(notes), left_out)

    def _as_json(self, checked: BaseModel) -> dict[str, Any]:
        """The arguments as they were understood: what was written as `yes` is true. Those that JSON
        does not bring back are not among them, such as secrets, of which it has only stars."""
        understood = {}
        for key, described in self._model.model_fields.items():
            name = described.alias or key
            with contextlib.suppress(Exception):  # types of anybody, who may raise anything
                dumped = checked.model_dump(mode="json", include={key}, warnings="none")[key]
                again = checked.model_copy()
                self._model.__pydantic_validator__.validate_assignment(again, key, dumped)
                if getattr(again, key) == getattr(checked, key):
                    understood[name] = dumped
        return understood


class SchemaArguments:
    """Those of a tool that is known by its JSON schema only."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def check(self, arguments: Mapping[str, Any], *, quoted: bool = False) -> Checked:
        """quoted: see `typed`"""
        read, notes = typed(arguments, self._schema, quoted=quoted)
        try:
            with bounded(read):
                errors = sorted(offline_validator(self._schema).iter_errors(read), key=_place)
            lines = [line for error in errors for line in self._lines(error, read)]
        except Exception as error:  # references, patterns: wrong in many ways, or endless
            lines = [f"- arguments: the schema cannot be used: {error}"]
        defaults = defaults_of(self._schema).items()
        left_out = {name: default for name, default in defaults if name not in read}
        return Checked(None if lines else read, read, tuple(lines), tuple(notes), left_out)

    def _lines(self, error: SchemaViolation, read: dict[str, Any]) -> Iterable[str]:
        if error.validator == "required" and not error.path:
            name = next(name for name in self._schema["required"] if _is_about(error, name))
            yield _line(self._schema, (name,), "missing", "")
        elif error.validator == "additionalProperties" and not error.path:
            for name in read.keys() - properties_of(self._schema).keys():
                yield _line(self._schema, (name,), "unknown", "")
        else:
            yield _line(self._schema, tuple(error.path), "", error.message)


def _line(schema: Mapping[str, Any], where: Sequence[Any], what: str, message: str) -> str:
    properties = properties_of(schema)
    name = ".".join(str(part) for part in where)
    if what == "unknown":
        near = difflib.get_close_matches(name, properties, n=1)
        did_you = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(properties) or "none"
        return f"- {name}: no such parameter; the parameters are: {known}{did_you}"
    top = len(where) == 1 and where[0] in properties
    wanted = expected(properties[where[0]], schema) if top else ""
    if what == "missing":
        return f"- {name}: missing" + (f"; expected {wanted}" if wanted else "")
    return f"- {name or 'arguments'}: {message}" + (f"; expected {wanted}" if wanted else "")


def _is_about(error: SchemaViolation, missing: str) -> bool:
    return error.message.startswith(f"{missing!r} is a required")


def _place(error: SchemaViolation) -> str:
    return ".".join(map(str, error.path))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
