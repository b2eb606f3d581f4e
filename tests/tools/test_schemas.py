"""Schemas that others wrote are checked in bounded time, or refused where they cannot be used."""

import time
import tracemalloc

import pytest

from agent_runtime.wire.sessions import CreateSession
from agent_runtime.wire.turns import ConversationRequest
from tools.arguments import SchemaArguments
from tools.budget import TooCostly, bounded
from tools.coercion import expected, typed
from tools.context import Context
from tools.define import define_by_schema
from tools.errors import BadDefinition
from tools.formats import parse
from tools.patterns import Undecided
from tools.schemas import flaw_of
from tools.tool import ToolSpec
from tools.validation import OfflineValidator

pytestmark = pytest.mark.timeout(60)  # for checks that would not end


def spec(parameters) -> ToolSpec:
    return ToolSpec(name="f", description="Does.", parameters=parameters)


def taking(x, **rest):
    return {"type": "object", "properties": {"x": x}, **rest}


def read(parameters, x=None):
    value = "" if x is None else f"<parameter=x>\n{x}\n</parameter>\n"
    text = f"<tool_call>\n<function=f>\n{value}</function>\n</tool_call>"
    message = parse(text, tools=[spec(parameters)])
    return message.calls[0].arguments, message.problems


LOOP = taking({"$ref": "#/$defs/a"}, required=["x"]) | {"$defs": {"a": {"$ref": "#/$defs/a"}}}


def doubling(keyword: str, levels: int = 60):
    """What is said of it is applied 2 to the power of `levels` times."""
    parts = {"a0": {"type": "integer"}}
    for level in range(1, levels):
        parts[f"a{level}"] = {keyword: [{"$ref": f"#/$defs/a{level - 1}"}] * 2}
    return taking({"$ref": f"#/$defs/a{levels - 1}"}, required=["x"]) | {"$defs": parts}


@pytest.mark.parametrize(
    "keyword", [{"pattern": "^(a+)+$"}, {"patternProperties": {"^(a+)+$": {"type": "integer"}}}]
)
def test_a_pattern_takes_no_more_time_than_the_text_is_long(keyword):
    text = "a" * 5000 + "!"
    schema = {"type": "object", "additionalProperties": False} | (
        {"properties": {text: keyword}} if "pattern" in keyword else keyword
    )
    errors = ["no match" for _ in _errors(schema, {text: text})]
    assert errors == ["no match"]


def _errors(schema, value):
    with bounded(value):
        return list(OfflineValidator(schema).iter_errors(value))


@pytest.mark.parametrize(
    ("text", "fits"), [("ab1", True), ("ab1\n", False), ("ab", False), ("\ud800", False)]
)
def test_patterns_mean_what_they_say(text, fits):
    assert (_errors({"pattern": r"^[a-z]+\d$"}, text) == []) is fits


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        (r"^(?!\.)(?!.*\.\.)[a-z.]+@([a-z]+\.)+[a-z]{2,}$", "ann.lee@example.org", True),
        (r"^(?!\.)(?!.*\.\.)[a-z.]+@([a-z]+\.)+[a-z]{2,}$", "ann..lee@example.org", False),
        (r"(?<=a)b", "cb", False),
        (r"^(a|b)\1$", "bb", True),
        (r"^(?=.*\p{Lu})\w+$", "abC", True),
        (r"^(?=.)\d$", "\uff11", False),
    ],
)
def test_patterns_that_look_around_or_refer_back_are_checked(pattern, text, fits):
    assert (_errors({"pattern": pattern}, text) == []) is fits
    named = {"patternProperties": {pattern: {"type": "string"}}, "additionalProperties": False}
    assert (_errors(named, {text: "x"}) == []) is fits
    assert (_errors(named, {text: 1}) == []) is False


@pytest.mark.parametrize("pattern", [r"(?!z)((a|ab|b)*)*\1$", "x{900}" * 300])
def test_a_pattern_that_cannot_be_checked_is_named_and_lets_nothing_pass(pattern):
    with pytest.raises(Undecided) as undecided:
        _errors({"pattern": pattern}, "ab" * 2000 + "c")
    assert str(undecided.value).startswith(f"the pattern {pattern[:200]!r} cannot be checked")
    arguments = define_by_schema(spec(taking({"pattern": pattern})), print).arguments
    checked = arguments.check({"x": "ab" * 2000 + "c"})
    assert checked.given is None
    assert any(repr(pattern[:200]) in line for line in checked.wrong)


def test_patterns_that_are_not_linear_share_what_time_they_have():
    pattern = r"(?!z)((a|ab|b)*)*\1$"
    schema = {"items": {"anyOf": [{"pattern": pattern}, {"type": "string"}]}}
    started = time.process_time()
    with pytest.raises(Undecided):
        _errors(schema, ["ab" * 2000 + "c"] * 1000)
    assert time.process_time() - started < 5


def test_a_very_long_pattern_is_refused_and_leaves_nothing_behind():
    tracemalloc.start()
    try:
        for number in range(8):
            schema = {"pattern": f"(?<=x){number}" + "a" * 1_000_000}
            for _ in range(2):
                with pytest.raises(Undecided, match="it has 1000007 characters"):
                    _errors(schema, "b")
        del schema
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 1_000_000


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_a_schema_that_doubles_what_it_asks_is_given_up(keyword):
    arguments, problems = read(doubling(keyword), 7)
    assert arguments == {"x": "7"}
    assert any("to check it takes too long" in one for one in problems)


@pytest.mark.parametrize(("last", "problems"), [({"n": 1.0}, 1), ({"n": True}, 0)])
def test_a_long_list_is_searched_for_equals_in_linear_time(last, problems):
    many = [*({"n": n} for n in range(20_000)), last]
    assert len(_errors({"uniqueItems": True}, many)) == problems


def test_checks_that_are_bounded_together_are_given_up_together():
    def check(times: int) -> None:
        with bounded([]):
            validator = OfflineValidator({"items": {"type": "integer"}})
            for _ in range(times):
                assert list(validator.iter_errors([0] * 1000)) == []

    check(1)
    with pytest.raises(TooCostly):
        check(1000)


LONG = "x" * 1_000_000


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
@pytest.mark.parametrize(
    "part",
    [
        False,
        {"type": "integer"},
        {"enum": [LONG + "y"]},
        {"const": [LONG]},
        {"not": {"type": "string"}},
        {"maxLength": 1},
        {"pattern": "^y"},
    ],
)
def test_a_long_text_is_not_repeated_for_what_is_wrong_with_it(keyword, part):
    arguments = SchemaArguments(
        taking({keyword: [{"$ref": "#/$defs/e"}] * 500}, **{"$defs": {"e": part}})
    )
    tracemalloc.start()
    try:
        wrong = arguments.check({"x": LONG}).wrong
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 1 <= len(wrong) <= 21
    assert len("".join(wrong)) < 10_000
    assert most < 2_000_000


NESTED = [list(range(20_000))]
NAMES = {f"n{number}": 0 for number in range(500)}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"uniqueItems": True}, NESTED),
        ({"enum": [[[*range(19_999), 0]]] * 2}, NESTED),
        ({"items": {"items": True}}, NESTED),
        ({"items": {"contains": {}}}, NESTED),
        ({"patternProperties": {f"^{number}": {} for number in range(20)}}, NAMES),
        ({"required": list(NAMES), "minProperties": 501}, NAMES),
    ],
)
def test_what_lies_deep_in_a_value_counts_each_time_that_it_is_looked_at(part, value):
    schema = {"allOf": [{"not": {"allOf": [{"$ref": "#/$defs/e"}, False]}}] * 4000}
    assert _errors({"$ref": "#/$defs/e", "$defs": {"e": part}}, value) is not None
    with pytest.raises(TooCostly):
        _errors({**schema, "$defs": {"e": part}}, value)


def test_a_schema_inside_another_cannot_choose_a_dialect_that_has_no_bounds():
    part = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}
    assert len(_errors({"properties": {"x": part}}, {"x": "a" * 5000 + "!"})) == 1
    assert read(taking(part), "a" * 5000 + "!")[1]


def test_references_lead_to_names_too_and_one_that_leads_nowhere_is_told_shortly():
    schema = {
        "properties": {"a": {"$ref": "#whole"}, "b": {"$ref": "other#/$defs/text"}},
        "$defs": {
            "whole": {"$anchor": "whole", "type": "integer"},
            "other": {"$id": "other", "$defs": {"text": {"type": "string"}}},
            "long": {"description": LONG},
        },
    }
    assert [list(error.path) for error in _errors(schema, {"a": 1.5, "b": 1})] == [["a"], ["b"]]
    assert _errors(schema, {"a": 1, "b": "x"}) == []
    arguments = SchemaArguments(
        {"properties": {"a": {"$ref": "#/$defs/none"}}, "$defs": schema["$defs"]}
    )
    assert arguments.check({"a": 1}).wrong == (
        "- arguments: the schema cannot be used: the reference '#/$defs/none' leads nowhere",
    )


def test_only_names_that_no_part_of_a_schema_allows_are_unknown_in_the_order_of_the_call():
    schema = taking({}, patternProperties={"^x-": {"type": "string"}}, additionalProperties=False)
    given = {"d": "1", "x-ok": "fine", "b": "2", "c": "3"}
    wrong = SchemaArguments(schema).check(given).wrong
    assert [line.partition(":")[0] for line in wrong] == ["- d", "- b", "- c"]


def test_a_long_name_is_not_compared_with_others_to_guess_what_was_meant():
    name = "ab" * 200_000
    schema = {"type": "object", "properties": {name: {}}, "additionalProperties": False}
    (wrong,) = SchemaArguments(schema).check({"ba" * 200_000: 1}).wrong
    assert "did you mean" not in wrong
    assert len(wrong) < 2000


def test_a_long_text_is_checked_whole():
    text = "x" * 1_000_000
    schema = taking({"anyOf": [{"type": kind} for kind in ("null", "integer", "array", "string")]})
    assert read(schema, text) == ({"x": text}, ())


def test_a_long_list_is_checked_whole():
    numbers = list(range(50_000))
    schema = taking({"type": "array", "items": {"type": "integer"}})
    assert read(schema, numbers) == ({"x": numbers}, ())


def test_a_reference_to_itself_does_not_keep_a_call_from_being_read():
    arguments, problems = read(LOOP)
    assert arguments == {}
    assert problems


def test_what_is_expected_is_said_once_however_a_schema_repeats_itself():
    json = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"$ref": "#/$defs/Json"}}]}
    root = {"$defs": {"Json": json}}
    assert expected({"$ref": "#/$defs/Json"}, root) == "number or array of Json"
    assert len(expected({"$ref": "#/$defs/a59"}, doubling("anyOf"))) < 1000
    assert expected({"anyOf": [True, {"type": "null"}]}, {}) == "any value or null"


@pytest.mark.parametrize(("schema", "problems"), [(True, 0), (False, 1)])
def test_true_and_false_are_schemas(schema, problems):
    arguments, found = read(taking(schema), "1")
    assert (arguments, len(found)) == ({"x": "1"}, problems)


RECURSIVE = taking({"$ref": "#/$defs/Node"}) | {
    "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}}
}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        taking(True),
        taking({}),
        RECURSIVE,
        taking({"anyOf": [{"$ref": "#/properties/y"}, {"$ref": "#/properties/y"}]}, y={}),
        taking({"$ref": "https://example.org/schema"}),
        {"type": "object", "properties": {"not": {"type": "object", "properties": {"if": {}}}}},
    ],
)
def test_schemas_that_can_be_used_are_taken(parameters):
    assert flaw_of(parameters) is None
    CreateSession(tools=[spec(parameters)])


WRONG = [
    ({"type": "object", "properties": None}, "properties: Input should be a valid dictionary"),
    ({"type": "object", "properties": []}, "properties: Input should be a valid dictionary"),
    (taking([]), "properties.x: "),
    (taking({"anyOf": {}}), "properties.x.anyOf: "),
    (taking({}, required="x"), "required: "),
    (LOOP, "the reference '#/$defs/a' leads back to itself"),
    (taking({"not": {"$ref": "#/properties/x"}}), "the reference '#/properties/x' leads back"),
]


@pytest.mark.parametrize(("parameters", "why"), WRONG)
def test_a_schema_that_cannot_be_used_is_refused_wherever_a_tool_comes_from(parameters, why):
    assert flaw_of(parameters).startswith(why)
    message = [{"role": "user", "content": "Hello."}]
    for request, fields in ((CreateSession, {}), (ConversationRequest, {"messages": message})):
        with pytest.raises(ValueError, match="the parameters of tool 'f' are no JSON schema"):
            request.model_validate({**fields, "tools": [spec(parameters).model_dump()]})

    async def never(given: dict, context: Context) -> None:
        raise AssertionError

    with pytest.raises(BadDefinition, match="f: its schema is wrong"):
        define_by_schema(spec(parameters), never)


@pytest.mark.parametrize("parameters", [one for one, _ in WRONG])
def test_calls_of_stored_tools_are_read_whatever_their_schemas_are(parameters):
    assert read(parameters, "1")[0] == {"x": "1"}
    assert typed({"x": "1"}, parameters)[0] == {"x": "1"}
