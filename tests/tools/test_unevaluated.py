"""What a schema has not looked at is held to `unevaluatedItems` and `unevaluatedProperties`."""

from __future__ import annotations

import itertools

import pytest
from jsonschema import Draft202012Validator

from tools.budget import TooCostly, bounded
from tools.define import ToolSpec, define_by_schema
from tools.registry import Registry
from tools.schemas import flaw_of
from tools.validation import OfflineValidator

NUMBER, TEXT, TRUE = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
ITEMS = [
    {"unevaluatedItems": False},
    {"unevaluatedItems": TEXT},
    {"prefixItems": [NUMBER], "unevaluatedItems": False},
    {"prefixItems": [NUMBER], "items": TEXT, "unevaluatedItems": False},
    {"contains": NUMBER, "unevaluatedItems": TEXT},
    {"contains": NUMBER, "minContains": 0, "unevaluatedItems": False},
    {"allOf": [{"prefixItems": [NUMBER]}, {"prefixItems": [True, TEXT]}],
     "unevaluatedItems": False},
    {"anyOf": [{"prefixItems": [NUMBER, NUMBER]}, {"prefixItems": [NUMBER]}],
     "unevaluatedItems": False},
    {"oneOf": [{"prefixItems": [TEXT]}, {"prefixItems": [NUMBER]}], "unevaluatedItems": TRUE},
    {"not": {"not": {"prefixItems": [NUMBER, NUMBER]}}, "unevaluatedItems": False},
    {"if": {"prefixItems": [NUMBER]}, "then": {"prefixItems": [True, NUMBER]},
     "else": {"prefixItems": [True, True, TEXT]}, "unevaluatedItems": False},
    {"$ref": "#/$defs/a", "unevaluatedItems": False, "$defs": {"a": {"prefixItems": [NUMBER]}}},
    {"$ref": "#a", "unevaluatedItems": False,
     "$defs": {"a": {"$anchor": "a", "prefixItems": [NUMBER]}}},
    {"allOf": [{"unevaluatedItems": NUMBER}], "unevaluatedItems": False},
    {"allOf": [{"allOf": [{"items": NUMBER}]}], "unevaluatedItems": False},
]  # fmt: skip
PROPERTIES = [
    {"unevaluatedProperties": False},
    {"properties": {"a": NUMBER}, "unevaluatedProperties": False},
    {"properties": {"a": NUMBER}, "unevaluatedProperties": TEXT},
    {"patternProperties": {"^a": NUMBER}, "unevaluatedProperties": False},
    {"additionalProperties": NUMBER, "unevaluatedProperties": False},
    {"allOf": [{"properties": {"a": NUMBER}}], "properties": {"b": NUMBER},
     "unevaluatedProperties": False},
    {"anyOf": [{"properties": {"a": TEXT}}, {"properties": {"b": NUMBER}, "required": ["b"]}],
     "unevaluatedProperties": False},
    {"if": {"required": ["a"]}, "then": {"properties": {"a": True}},
     "else": {"properties": {"b": True}}, "unevaluatedProperties": False},
    {"dependentSchemas": {"a": {"properties": {"a": True, "b": True}}},
     "unevaluatedProperties": False},
    {"$ref": "#/$defs/a", "unevaluatedProperties": False,
     "$defs": {"a": {"properties": {"a": NUMBER}}}},
    {"allOf": [{"unevaluatedProperties": NUMBER}], "unevaluatedProperties": False},
]  # fmt: skip
VALUES = (1, "x", True)
LISTS = [list(one) for count in range(4) for one in itertools.product(VALUES, repeat=count)]
OBJECTS = [
    dict(zip(names, values, strict=True))
    for names in ((), ("a",), ("b",), ("a", "b"), ("a", "ab"), ("a", "b", "c"))
    for values in itertools.product(VALUES, repeat=len(names))
]


def is_valid(schema, instance) -> bool:
    with bounded(instance):
        return OfflineValidator(schema).is_valid(instance)


@pytest.mark.parametrize("schema", ITEMS, ids=str)
def test_lists_are_held_as_jsonschema_holds_them(schema):
    standard = Draft202012Validator(schema)
    values = [*LISTS, "no list", {"a": 1}]
    wanted = [standard.is_valid(one) for one in values]
    assert [is_valid(schema, one) for one in values] == wanted
    assert False in wanted


@pytest.mark.parametrize("schema", PROPERTIES, ids=str)
def test_objects_are_held_as_jsonschema_holds_them(schema):
    standard = Draft202012Validator(schema)
    wanted = [standard.is_valid(one) for one in OBJECTS]
    assert [is_valid(schema, one) for one in OBJECTS] == wanted
    assert False in wanted


async def test_a_call_with_elements_that_the_schema_does_not_know_is_not_made():
    made = []
    parameters = {
        "type": "object",
        "properties": {"pair": {"prefixItems": [NUMBER, NUMBER], "unevaluatedItems": False}},
        "unevaluatedProperties": False,
    }

    async def move(arguments, context):
        made.append(arguments)
        return "moved"

    spec = ToolSpec(name="move", description="Moves.", parameters=parameters)
    registry = Registry([define_by_schema(spec, move)])
    for wrong in ({"pair": [1, 2, 3]}, {"pair": [1, 2], "fast": True}):
        outcome = await registry.call("move", wrong)
        assert "is not one of those that the schema knows" in outcome.text
    assert made == []
    assert (await registry.call("move", {"pair": [1, 2]})).text == "moved"
    assert made == [{"pair": [1, 2]}]


def test_what_goes_into_itself_again_and_again_is_ended():
    part = {"prefixItems": [NUMBER], "unevaluatedItems": False}
    for _ in range(40):
        part = {"allOf": [part, {"anyOf": [part]}], "unevaluatedItems": False}
    with bounded([1]), pytest.raises(TooCostly):
        OfflineValidator(part).is_valid([1])


def test_keywords_that_are_no_schemas_are_refused():
    assert "unevaluatedItems" in flaw_of({"type": "array", "unevaluatedItems": "no"})
    assert "unevaluatedProperties" in flaw_of({"unevaluatedProperties": 7})
