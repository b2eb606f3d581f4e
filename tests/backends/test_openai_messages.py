"""OpenAI's forms of what is said, as the runtime takes them."""

import pytest

from agent_runtime.errors import BadRequest, TextOnly, WrongMessage
from agent_runtime.frameworks import Said, untold
from agent_runtime.openai_api.messages import Ids, call_of, conversation, text_of
from agent_runtime.wire.messages import Message


def test_content_is_text_or_parts_of_text():
    parts = [{"type": "text", "text": "One "}, {"type": "text", "text": "two."}]
    assert [text_of(one, "x") for one in (None, "", "One.", parts)] == ["", "", "One.", "One two."]


@pytest.mark.parametrize(
    ("content", "kind", "param"),
    [
        ([{"type": "text", "text": "a"}, {"type": "image_url"}], TextOnly, "x[1]"),
        (["a"], TextOnly, "x[0]"),
        ([{"type": "text"}], BadRequest, "x[0].text"),
        (7, BadRequest, "x"),
    ],
)
def test_other_content_is_refused_where_it_stands(content, kind, param):
    with pytest.raises(kind) as refused:
        text_of(content, "x")
    assert refused.value.param == param


@pytest.mark.parametrize("arguments", ["{1", "[]", "null", '"x"'])
def test_arguments_are_an_object(arguments):
    assert call_of("f", '{"x": 1}', "p").arguments == {"x": 1}
    assert call_of("f", "", "p").arguments == {}
    with pytest.raises(WrongMessage) as refused:
        call_of("f", arguments, "p")
    assert refused.value.param == "p"


def calls(*ids):
    return Said(Message(role="assistant", content=""), calls=ids)


def result(call):
    return Said(Message(role="tool", content=call.upper()), answers=call)


def user(text="Go on."):
    return Said(Message(role="user", content=text))


def test_results_come_in_the_order_of_their_calls():
    ordered = conversation(
        [user(), calls("a", "b", "c"), result("c"), result("a"), result("b"), user()], "messages"
    )
    assert [one.content for one in ordered] == ["Go on.", "", "A", "B", "C", "Go on."]


@pytest.mark.parametrize(
    ("said", "place", "why"),
    [
        ([user(), result("a")], "m[1]", "none of the calls"),
        ([user(), calls("a"), result("b")], "m[2]", "none of the calls"),
        ([user(), calls("a"), result("a"), result("a")], "m[3]", "answered before"),
        ([user(), calls("a", "b"), result("a"), user()], "m[3]", "'b' are missing"),
        ([user(), calls("a"), user()], "m[2]", "'a' are missing"),
        ([user(), calls("a", "b"), result("b")], "m", "'a' are missing"),
        ([user(), calls("a"), result("a"), user(), result("a")], "m[4]", "none of the calls"),
    ],
)
def test_a_result_that_could_be_taken_for_anothers_is_refused(said, place, why):
    with pytest.raises(WrongMessage, match=why) as refused:
        conversation(said, "m")
    assert refused.value.param == place


def test_ids_are_the_same_for_the_same_key_only():
    assert Ids("k").of("call_", 1) == Ids("k").of("call_", 1)
    some = [Ids("k").of("call_", 1), Ids("k").of("call_", 2), Ids("l").of("call_", 1)]
    some += [Ids().of("call_", 1), Ids().of("call_", 1), Ids("k").of("chatcmpl-", 1)]
    assert len(set(some)) == 6


@pytest.mark.parametrize(
    ("told", "rest"),
    [
        ("", "Yes, it is."),
        ("Yes,", " it is."),
        ("Yes, it is.", ""),
        ("\n\nYes,", ""),
        ("Yes, it is. ", ""),
    ],
)
def test_what_was_told_is_not_told_again(told, rest):
    assert untold(told, "Yes, it is.") == rest
