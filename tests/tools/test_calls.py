import codecs
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tools.calls import ParsedMessage, ToolCall
from tools.formats import CallParser, parse

ADD = ToolCall(name="add", arguments={"a": "1"})
TAGS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=add>", "<function=find>",
    "</function>", "<parameter=a>", "<parameter=b>", "</parameter>",
)  # fmt: skip
PIECES = (*TAGS, "\n", " ", "1", "two", "<", ">", "<function=", "<parameter=a\n>", "</", "é", "🦜")

messages = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join)
names = st.text(st.characters(codec="utf-8", exclude_characters="<>\n"), min_size=1, max_size=20)
clean_names = names.filter(lambda name: name == name.strip())
ENDS = ("</parameter>", "</function>", "</tool_call>", "<parameter=", "<function=")
values = st.lists(
    st.text(max_size=20) | st.sampled_from(("\n", "<", "<tool_call>", "<think>", "</think>")),
    max_size=6,
).map("".join).filter(lambda value: not any(end in value for end in ENDS))  # fmt: skip
plain_texts = st.text().filter(
    lambda text: not any(tag in text for tag in (*ENDS, "<tool_call>", "<think>", "</think>"))
)
calls = st.builds(ToolCall, name=clean_names, arguments=st.dictionaries(clean_names, values))


def render(call: ToolCall) -> str:
    """As the chat template renders it (test_declared_tools checks that)."""
    parameters = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in call.arguments.items()
    )
    return f"<tool_call>\n<function={call.name}>\n{parameters}</function>\n</tool_call>\n"


def parse_pieces(pieces: list[str], **options: bool) -> ParsedMessage:
    cut_off = options.pop("cut_off", False)
    parser = CallParser(**options)
    for piece in pieces:
        parser.feed(piece)
    return parser.finish(cut_off=cut_off)


@given(messages, st.data(), st.booleans(), st.booleans())
def test_a_message_reads_the_same_however_it_is_split(message, data, thinking, cut_off):
    cuts = data.draw(st.lists(st.integers(0, len(message)), max_size=8).map(sorted))
    edges = [0, *cuts, len(message)]
    pieces = [message[a:b] for a, b in pairwise(edges)]
    whole = parse(message, thinking=thinking, cut_off=cut_off)
    assert parse_pieces(pieces, thinking=thinking, cut_off=cut_off) == whole
    assert parse_pieces(list(message), thinking=thinking, cut_off=cut_off) == whole


@given(messages)
def test_a_message_split_at_every_byte_reads_the_same(message):
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces = [decoder.decode(bytes([byte])) for byte in message.encode()]
    assert parse_pieces(pieces) == parse(message)


@given(st.lists(calls, min_size=1, max_size=4), plain_texts)
def test_well_formed_calls_are_read_exactly_and_without_complaint(written, text):
    message = parse(text + "\n" + "".join(map(render, written)))
    assert message.calls == tuple(written)
    assert message.text == text.strip()
    assert message.problems == ()


@given(values, values)
@example("<tool_call>\n", "\n")
def test_values_keep_every_character(first, second):
    call = ToolCall(name="write", arguments={"path": first, "content": second})
    assert parse(render(call)).calls == (call,)


@given(messages)
def test_visible_text_grows_only_at_its_end(message):
    parser = CallParser()
    shown = "".join(parser.feed(character) for character in message)
    final = parser.finish()
    if not any("never opened" in problem for problem in final.problems):
        assert final.text.startswith(shown)


@given(messages, st.booleans())
@example("<think> a\n<think></think><think>\n</think> b <think>c </think>", False)
@example("a\n</think>\nb", True)
def test_what_was_read_is_the_beginning_of_the_message(message, thinking):
    parser = CallParser(thinking=thinking)
    read = [parser.read(character) for character in message]
    final = parser.finish()
    if any("opened" in one or "thinking was not closed" in one for one in final.problems):
        return
    assert final.text.startswith("".join(one.text for one in read))
    assert final.reasoning == "".join(one.reasoning for one in read)
    called = [call for one in read for call in one.calls]
    assert list(final.calls[: len(called)]) == called


def test_thinking_and_calls_are_available_as_soon_as_they_are_certain():
    parser = CallParser(thinking=True)
    assert parser.read("First \n").reasoning == "First"
    assert parser.read("this.\n</th").reasoning == " \nthis."
    assert parser.read("ink>\nSo:").text == "So:"
    assert parser.read("\n" + render(ADD)).calls == (ADD,)


@given(plain_texts)
def test_text_without_tags_is_all_visible(text):
    message = parse(text)
    assert (message.text, message.calls, message.reasoning) == (text.strip(), (), "")


def test_visible_text_is_available_before_the_message_ends():
    parser = CallParser()
    assert parser.feed("Let me see.\n\n<tool") == "Let me see."
    assert parser.feed("_call>\n<function=add>\n") == ""
    assert parser.feed("<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>") == ""
    assert parser.finish().calls == (ToolCall(name="add", arguments={"a": "1"}),)


A = "<parameter=a>\n1\n</parameter>\n"


@pytest.mark.parametrize(
    ("written", "calls", "problem"),
    [
        (f"<function=add>\n{A}</function>\n</tool_call>", [ADD], "had no <tool_call>"),
        (f"<function=add>\n{A}</function>", [ADD], "had no <tool_call>"),
        ("<tool_call>\n<function=add>\n<parameter=a>\n1\n", [ADD], "parameter a of add was not"),
        (f"<tool_call>\n<function=add>\n{A}", [ADD], "call of add was not closed"),
        (f"<tool_call>\n<function=add>\n{A}</function>\n", [ADD], "a <tool_call> was not closed"),
        (
            f"<tool_call>\n<function=add>\n{A}</tool_call>\n{render(ADD)}",
            [ADD, ADD],
            "call of add was not closed",
        ),
        (
            f"<tool_call>\n<function=add>\n{A}</function>\n{render(ADD)}",
            [ADD, ADD],
            "a <tool_call> was not closed",
        ),
        (
            f"<tool_call>\n<function=add>\n{A}<function=add>\n{A}</function>\n</tool_call>",
            [ADD, ADD],
            "call of add was not closed",
        ),
        (
            f"<tool_call>\n<function=add>\n<parameter=a>\n1\n{render(ADD)}",
            [ADD, ADD],
            "parameter a of add was not closed",
        ),
        (
            f"<tool_call>\n<function=add>\n<parameter=a>\n0\n</parameter>\n{A}</function>\n"
            "</tool_call>",
            [ADD],
            "more than once; the last one counts",
        ),
        (
            "<tool_call>\n<function=add>\n<parameter=b>\n2\n<parameter=a>\n1\n</function>\n"
            "</tool_call>",
            [ToolCall(name="add", arguments={"b": "2", "a": "1"})],
            "parameter b of add was not closed",
        ),
        (
            f"<tool_call>\n<function=add>\nwith\n{A}</function>\n</tool_call>",
            [ADD],
            "text between the parameters of add was ignored",
        ),
        (f"{render(ADD)}Done.", [ADD], "text after a tool call"),
        (f"<think>\nI must add.\n{render(ADD)}", [ADD], "the thinking was not closed"),
        ("<tool_call>\n</tool_call>", [], "was empty"),
        ("I would write <function=add> here.", [], "is taken as text"),
        ('<tool_call>\n{"name": "add"}\n</tool_call>', [], "is taken as text"),
    ],
)
def test_a_bent_call_is_read_and_reported(written, calls, problem):
    message = parse(written)
    assert message.calls == tuple(calls)
    assert [found for found in message.problems if problem in found] != []


def test_several_calls_may_share_one_block():
    message = parse(f"<tool_call>\n<function=add>\n{A}</function>\n<function=now>\n</function>\n"
                    "</tool_call>")  # fmt: skip
    assert message.calls == (ADD, ToolCall(name="now"))
    assert message.problems == ()


def test_what_only_looked_like_a_call_stays_in_the_text():
    written = 'Write <function=add> or <tool_call>{"name": "add"}</tool_call> or </function>.'
    assert parse(written).text == written


def test_thinking_is_kept_out_of_the_text():
    message = parse(f"<think>\nAdd <tool_call> them.\n</think>\nOne moment.\n{render(ADD)}")
    assert message == ParsedMessage("One moment.", "Add <tool_call> them.", (ADD,), ())


def test_thinking_opened_by_the_prompt_is_kept_out_of_the_text():
    written = f"{render(ADD)}or not\n</think>\nFive."
    message = parse(written, thinking=True)
    assert message == ParsedMessage("Five.", f"{render(ADD)}or not", (), ())


def test_thinking_that_was_never_opened_is_still_kept_out_of_the_text():
    message = parse(f"{render(ADD)}or not\n</think>\nFive.")
    assert (message.text, message.reasoning) == ("Five.", f"{render(ADD)}or not")
    assert message.calls == ()
    assert "tool calls inside the thinking were not taken" in message.problems


@pytest.mark.parametrize("end", range(len("<tool_call>\n<function="), len(render(ADD))))
def test_a_call_cut_off_by_a_limit_is_only_taken_when_complete(end):
    message = parse(render(ADD)[:end], cut_off=True)
    complete = "</function>" in render(ADD)[:end]
    assert message.calls == ((ADD,) if complete else ())
    assert message.problems != () or render(ADD)[:end].endswith("</tool_call>")
