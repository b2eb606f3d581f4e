"""However a model repeats itself, reading takes time that grows with the text and not faster."""

import pytest

from tools.formats import CallParser, parse
from tools.tool import ToolSpec

# Each took minutes or hours while reading took time that grows with the square of the text.
pytestmark = pytest.mark.timeout(60)

WORK = ToolSpec(name="work", description="Works.", parameters={"type": "object"})
OPEN = '<tool_call>\n{"name": "work", "arguments": {"x": "'
CALL = '<tool_call>{"name": "work", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "format"),
    [
        (OPEN + "</tool_call>" * 20_000, "hermes"),
        ('<tool_call>{"</tool_call>' + '<tool_call>{\\"</tool_call>' * 2000, "hermes"),
        ("\n" * 200_000, "hermes"),
        ("\n{" * 50_000, "hermes"),
        (f"<think>{CALL}" * 3000, "hermes"),
        ("<think><tool_call><function=work></function></tool_call>" * 3000, "qwen3_coder"),
        ("<tool_call><function=work><parameter=x><tool_call>x" + "<function=a>" * 40_000,
         "qwen3_coder"),
    ],
)  # fmt: skip
def test_a_message_that_could_be_read_in_many_ways_is_read(text, format):
    message = parse(text, format, tools=[WORK])
    assert message.text or message.calls or not text.strip()


@pytest.mark.parametrize("thinking", [True, False])
def test_blanks_that_come_one_by_one_are_read(thinking):
    parser = CallParser("qwen3_coder", thinking=thinking)
    for _ in range(50_000):
        parser.feed("\n")
    parser.feed("x")
    for _ in range(50_000):
        parser.feed("\n")
    parser.feed("y")
    message = parser.finish()
    assert (message.reasoning if thinking else message.text) == "x" + "\n" * 50_000 + "y"


def test_a_parameter_given_thousands_of_times_counts_once():
    values = ", ".join(f'"x{number}": {number}, "x{number}": 0' for number in range(10_000))
    (call,) = parse(
        f'<tool_call>{{"name": "work", "arguments": {{{values}}}}}</tool_call>', "hermes"
    ).calls
    assert set(call.arguments.values()) == {0}


def test_thousands_of_objects_that_begin_like_calls_are_text():
    """Nothing raises, however often something begins that is no call."""
    text = '{"name": 1} x\n' * 2000
    message = parse(text, "hermes", tools=[WORK])
    assert (message.text, message.calls) == (text.strip(), ())


def test_a_few_calls_with_ends_in_strings_are_read_to_their_own_ends():
    call = '<tool_call>{"name": "work", "arguments": {"x": "</tool_call>"}}</tool_call>'
    message = parse(call * 40, "hermes", tools=[WORK])
    assert [one.arguments for one in message.calls] == [{"x": "</tool_call>"}] * 40
