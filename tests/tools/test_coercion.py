"""Strings of XML calls become what the schema asks for, and what is ambiguous is told."""

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from tools.coercion import typed


class Point(BaseModel):
    x: int
    y: int


def read(value: str, kind: Any) -> tuple[Any, list[str]]:
    schema = TypeAdapter(kind).json_schema()
    defs = schema.pop("$defs", {})
    found, notes = typed({"a": value}, {"properties": {"a": schema}, "$defs": defs})
    return found["a"], notes


@pytest.mark.parametrize(
    ("written", "kind", "meant"),
    [
        ("12", int, 12),
        ("12", str, "12"),
        ("-1.5e3", float, -1500.0),
        ("true", bool, True),
        ("True", bool, True),
        ("False", str, "False"),
        ("None", int | None, None),
        ("null", str, "null"),
        ("[1, 2]", list[int], [1, 2]),
        ("[1, 2]", str, "[1, 2]"),
        ('{"x": 1, "y": 2}', Point, {"x": 1, "y": 2}),
        ('{"x": 1}', Point, {"x": 1}),  # what is missing is told later, by its own name
        ('"fast"', Literal["fast", "slow"], "fast"),
        ("fast", Literal["fast", "slow"], "fast"),
        ("\tfast \r", Literal["fast", "slow"], "fast"),
        (" fast ", str, " fast "),
        ("3", Literal[1, 2, 3], 3),
        (" 7 ", int, 7),
        ("seven", int, "seven"),
        ("NaN", float, "NaN"),
        ("1e999", float, "1e999"),
        ("[-1e999]", list[float], "[-1e999]"),
        ("9" * 5000, int, "9" * 5000),
        ("[" * 100_000, list[int], "[" * 100_000),
    ],
)
def test_a_string_is_read_as_its_schema_says(written, kind, meant):
    assert read(written, kind) == (meant, [])


@pytest.mark.parametrize(
    ("written", "kind", "taken", "note"),
    [
        ("12", int | str, "12", "a: 12 is taken as text, and not as a number"),
        ("true", bool | str, "true", "a: true is taken as text, and not as a boolean"),
        ("null", str | None, None, "a: null is taken as no value, and not as text"),
        ("[1]", Any, "[1]", "a: [1] is taken as text, and not as an array"),
    ],
)
def test_what_can_be_read_in_two_ways_is_told(written, kind, taken, note):
    assert read(written, kind) == (taken, [note])


def test_what_no_schema_speaks_of_stays_as_it_is():
    assert typed({"a": "1", "b": 2}, {"properties": {"b": {"type": "string"}}}) == (
        {"a": "1", "b": 2},
        [],
    )


@pytest.mark.parametrize(
    "schema", [{"$ref": "http://127.0.0.1:9/x"}, {"pattern": "("}, {"type": 3}]
)
def test_a_schema_that_cannot_be_used_leaves_strings_alone_and_is_told(schema):
    found, (note,) = typed({"a": "1"}, {"properties": {"a": schema}})
    assert found == {"a": "1"}
    assert note.startswith("a: its schema cannot be used: ")


kinds = st.sampled_from((int, float, bool, str, list[int], dict[str, int], int | None, int | str))


@given(st.text() | st.integers().map(str) | st.lists(st.integers()).map(json.dumps), kinds)
def test_reading_never_breaks_what_fits_already(written, kind):
    schema = TypeAdapter(kind).json_schema()
    value, _ = read(written, kind)
    validator = Draft202012Validator(schema)
    if validator.is_valid(written):
        assert validator.is_valid(value)
    assert value == written or not isinstance(value, str)
