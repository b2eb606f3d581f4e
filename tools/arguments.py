"""Checks what a model gives a tool, and tells it everything that is wrong at once."""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from tools.budget import bounded
from tools.coercion import defaults_of, expected, properties_of, typed
from tools.validation import MOST_VIOLATIONS, OfflineValidator, Violation


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
            return Checked(None, read, _limited(lines), tuple(notes))
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
                found = OfflineValidator(self._schema).iter_errors(read)
                errors = sorted(itertools.islice(found, MOST_VIOLATIONS + 1), key=_place)
            lines = _limited([self._line(error) for error in errors])
        except Exception as error:  # references, patterns: wrong in many ways, or endless
            lines = (f"- arguments: the schema cannot be used: {_cut(str(error), 500)}",)
        if lines:
            return Checked(None, read, lines, tuple(notes))
        defaults = defaults_of(self._schema).items()
        left_out = {name: default for name, default in defaults if name not in read}
        return Checked(read, read, (), tuple(notes), left_out)

    def _line(self, error: Violation) -> str:
        what = {"required": "missing", "additionalProperties": "unknown"}.get(str(error.validator))
        if what and not error.path:
            return _line(self._schema, (error.validator_value,), what, "")
        return _line(self._schema, tuple(error.path), "", error.message)


def _line(schema: Mapping[str, Any], where: Sequence[Any], what: str, message: str) -> str:
    properties = properties_of(schema)
    name = _cut(".".join(str(part) for part in where))
    if what == "unknown":
        # What is much longer is not near, and to find that out takes very long.
        alike = [one for one in itertools.islice(properties, 1000) if len(one) <= 2 * len(name)]
        near = difflib.get_close_matches(name, alike, n=1)
        did_you = f"; did you mean {near[0]}?" if near else ""
        known = _cut(", ".join(properties), 1000) or "none"
        return f"- {name}: no such parameter; the parameters are: {known}{did_you}"
    top = len(where) == 1 and where[0] in properties
    wanted = expected(properties[where[0]], schema) if top else ""
    if what == "missing":
        return f"- {name}: missing" + (f"; expected {wanted}" if wanted else "")
    return f"- {name or 'arguments'}: {message}" + (f"; expected {wanted}" if wanted else "")


def _limited(lines: list[str]) -> tuple[str, ...]:
    more = ["- and more is wrong"] if len(lines) > MOST_VIOLATIONS else []
    return (*lines[:MOST_VIOLATIONS], *more)


def _place(error: Violation) -> str:
    return ".".join(map(str, error.path))


def _short(value: Any) -> str:
    return _cut(repr(value), 80)


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
