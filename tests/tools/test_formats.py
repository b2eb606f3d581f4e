"""Both call formats: however a stream is split, whatever is in it, no call is lost or invented."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.calls import ParsedMessage, ToolCall
from tools.define import ToolSpec
from tools.errors import UnknownFormat
from tools.formats import FORMATS, CallParser, parse

ADD = ToolSpec(
    name="add",
    description="Adds.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
XML = ("<function=add>", "<function=find>", "</function>", "<parameter=a>", "<parameter=b>",
       "</parameter>", "<parameter=a", "</parameter")  # fmt: skip
JSON = ('{"name": "add", "arguments": {', '{"name":"find"', '"a": 1', '"b": "x', '"', "{", "}",
        "}}", "[", "]", ", ", ": ", "\\", "\\u00e9", "null",
        "{'name': 'add', 'arguments': {}}")  # fmt: skip
BOTH = ("<tool_call>", "</tool_call>", "<think>", "</think>", "\n", " ", "1", "two", "<", ">", "é",
        "🦜")  # fmt: skip
PIECES = {"qwen3_coder": BOTH + XML, "hermes": BOTH + JSON}
OWN_FORMATS = tuple(PIECES)


def render(call: ToolCall, format: str) -> str:
    if format == "hermes":
        return f"<tool_call>\n{json.dumps(call.model_dump(), ensure_ascii=False)}\n</tool_call>\n"
    parameters = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in call.arguments.items()
    )
    return f"<tool_call>\n<function={call.name}>\n{parameters}</function>\n</tool_call>\n"


def streams(format: str, count: int) -> list[str]:
    """Half of them shuffled pieces, half calls that were bent in a few places."""
    chance = random.Random(7)
    made = []
    for number in range(count):
        if number % 2:
            pieces = chance.choices(PIECES[format], k=chance.randint(1, 14))
        else:
            pieces = ["Let me see.\n\n"]
            for _ in range(chance.randint(1, 3)):
                arguments = {"a": chance.choice(["1", "two", "</tool_call>", "{"]), "b": "é"}
                call = ToolCall(name="add", arguments=arguments)
                pieces += render(call, format).splitlines(keepends=True)
            for _ in range(chance.randint(0, 3)):
                place = chance.randrange(len(pieces))
                bent = chance.choice(["", pieces[place][:-3], chance.choice(PIECES[format])])
                pieces[place] = bent
        made.append("".join(pieces))
    return made


def read(pieces: list[str], format: str, **options) -> ParsedMessage:
    parser = CallParser(format, **options)
    for piece in pieces:
        parser.feed(piece)
    return parser.finish()


@pytest.mark.parametrize("format", OWN_FORMATS)
@pytest.mark.parametrize(
    ("count", "declared"),
    [
        pytest.param(100, None, id="undeclared"),
        pytest.param(1000, None, id="more undeclared", marks=pytest.mark.slow),
        pytest.param(25, (ADD,), id="declared"),
    ],
)
def test_every_split_of_many_streams_reads_the_same(format, count, declared):
    for stream in streams(format, count):
        whole = read([stream], format, tools=declared)
        for at in range(1, len(stream)):
            assert read([stream[:at], stream[at:]], format, tools=declared) == whole, (stream, at)
        assert read(list(stream), format, tools=declared) == whole, stream


@pytest.mark.parametrize("format", OWN_FORMATS)
def test_what_was_shown_while_it_streamed_is_the_beginning_of_the_text(format):
    for stream in streams(format, 1000):
        parser = CallParser(format)
        shown = "".join(parser.feed(character) for character in stream)
        final = parser.finish()
        if not any("never opened" in problem for problem in final.problems):
            assert final.text.startswith(shown)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6,
)  # fmt: skip
json_calls = st.builds(
    ToolCall,
    name=st.text(min_size=1).filter(lambda name: name == name.strip()),
    arguments=st.dictionaries(st.text(), json_values),
)


@settings(max_examples=40)
@given(st.lists(json_calls, min_size=1, max_size=4), st.sampled_from(("", "Let me see.\n")))
def test_well_formed_json_calls_are_read_exactly_and_without_complaint(calls, text):
    message = parse(text + "".join(render(call, "hermes") for call in calls), "hermes")
    assert message == ParsedMessage(text.strip(), "", tuple(calls), ())


@given(st.text() | st.lists(st.sampled_from(PIECES["hermes"])).map("".join), st.booleans())
def test_no_json_call_is_invented(text, cut_off):
    message = parse(text, "hermes", cut_off=cut_off)
    for call in message.calls:
        assert call.name in text
    assert len(message.calls) <= text.count("name")


ONE = ToolCall(name="add", arguments={"a": "1", "b": "x"})
TWO = ToolCall(name="add", arguments={"a": "2", "b": "y"})
CUTS = {
    "qwen3_coder": ("<tool_call>\n", "</parameter>\n", "</function>\n", "</tool_call>\n"),
    "hermes": ("<tool_call>\n", "</tool_call>\n"),
}


@pytest.mark.parametrize(
    ("format", "tag", "which"),
    [(format, tag, which) for format in CUTS for tag in CUTS[format] for which in (0, 1)],
)
def test_a_call_is_not_lost_for_want_of_one_tag(format, tag, which):
    written = [render(ONE, format), render(TWO, format)]
    written[which] = written[which].replace(tag, "", 1)
    message = parse("I add.\n" + "".join(written), format)
    assert message.calls == (ONE, TWO)
    assert message.problems != ()
    assert message.text == "I add."


def test_formats_are_known_by_name():
    assert FORMATS["nemotron_3"] is FORMATS["qwen3_coder"]
    with pytest.raises(UnknownFormat, match="'yaml' is known; use one of: qwen3_coder, nemotron_3"):
        CallParser("yaml")


def test_arguments_are_read_by_the_schema_that_was_declared():
    written = ToolCall(name="add", arguments={"a": "1", "b": "null"})
    message = parse(render(written, "qwen3_coder"), tools=[ADD])
    assert message.calls == (ToolCall(name="add", arguments={"a": 1, "b": None}),)
    assert message.problems == (
        "parameter b: null is taken as no value, and not as text (in the call of add)",
    )
    message = parse(render(written, "hermes"), "hermes", tools=[ADD])
    assert message.calls == (ToolCall(name="add", arguments={"a": 1, "b": "null"}),)
    assert message.problems == ("parameter a of add was given as text",)


@pytest.mark.parametrize("format", OWN_FORMATS)
def test_what_is_wrong_with_a_call_is_reported_and_the_call_is_kept(format):
    calls = (
        ToolCall(name="ad", arguments={"a": "1"}),
        ToolCall(name="add", arguments={"a": "one", "c": "x"}),
        ToolCall(name="add", arguments={}),
    )
    message = parse("".join(render(call, format) for call in calls), format, tools=[ADD])
    assert message.calls == calls
    assert [problem.partition(";")[0] for problem in message.problems] == [
        "there is no tool named ad",
        "parameter c: no such parameter",
        "parameter a: 'one' is not of type 'integer'",
        "parameter a: missing",
    ]


def test_a_call_without_its_opener_is_one_only_if_it_names_a_tool():
    for name, calls in (("add", 1), ("Array", 0)):
        written = f"See <function={name}>\n<parameter=a>\n1\n</parameter>\n</function>"
        message = parse(written, tools=[ADD])
        assert len(message.calls) == calls
        assert message.text == ("See" if calls else written)
        written = f'{{"name": "{name}", "arguments": {{"a": 1}}}}'
        message = parse(written, "hermes", tools=[ADD])
        assert len(message.calls) == calls
        assert message.text == ("" if calls else written)
    assert parse(written, "hermes").calls == ()


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": []},
        {"properties": {"a": 1}, "required": 7},
        {"properties": {"a": {"enum": 3}}},
        {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"pattern": "("}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"type": "nothing"}}, "required": ["b"]},
        {"$ref": "#"},
    ],
)
@pytest.mark.parametrize("format", OWN_FORMATS)
def test_schemas_that_are_wrong_lose_no_call(format, schema):
    tool = ToolSpec(name="add", description="Adds.", parameters=schema)
    written = ToolCall(name="add", arguments={"a": "1"})
    assert parse(render(written, format), format, tools=[tool]).calls == (written,)
