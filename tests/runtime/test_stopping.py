"""Answers end at texts that the client names."""

import pytest

from agent_runtime.errors import InvalidRequest
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.turns.stopping import StopWatch
from agent_runtime.wire.events import Text
from agent_runtime.wire.messages import Message
from engine.profiles import PROFILES

from .talk import PAGE


@pytest.mark.parametrize(
    ("texts", "pieces", "seen", "found"),
    [
        (["STOP"], ["a ST", "OP b"], "a ", "STOP"),
        (["STOP"], ["a S", "T", "RO", "NG"], "a STRONG", None),
        (["aab"], ["aa", "ab"], "a", "aab"),
        (["b", "ab"], ["xab"], "x", "ab"),
        (["long text", "t"], ["a lon", "g t"], "a long ", "t"),
        ([], ["a", "b"], "ab", None),
    ],
)
def test_nothing_of_the_text_is_passed_on(texts, pieces, seen, found):
    watch = StopWatch(texts)
    passed = ""
    for piece in pieces:
        passed += watch.feed(piece)
        if watch.found is not None:
            break
    assert passed + watch.finish() == seen
    assert watch.found == found


def test_text_is_held_back_no_longer_than_it_must_be():
    watch = StopWatch(["STOP"])
    assert [watch.feed(piece) for piece in ("aST", "x", "S")] == ["a", "STx", ""]


async def test_an_answer_ends_before_the_text_and_keeps_it_in_the_history(torpor, session):
    *pieces, turn = [event async for event in torpor.stream(session.id, "Thanks.", stop=["are"])]
    assert (turn.text, turn.stopped_by, turn.finish_reason) == ("You", "are", "stop")
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)).strip() == "You"
    chat = ChatFormat(PROFILES["demo"].model)
    assert chat.decode(turn.token_ids).strip() == "You are"
    after = await torpor.turn(session.id, "Thanks.", stop=["nowhere to be read"])
    assert (after.text, after.stopped_by) == ("You are welcome.", None)
    assert after.usage.recomputed_tokens <= PAGE
    assert after.usage.prompt_tokens > turn.usage.prompt_tokens + len(turn.token_ids)


async def test_an_answer_that_was_ended_is_known_by_what_the_client_read(torpor):
    said = [Message(role="user", content="Thanks.")]
    first = await torpor.converse(said, stop=["are"])
    said += [Message(role="assistant", content=first.text), Message(role="user", content="Tick.")]
    second = await torpor.converse(said)
    assert second.session_id == first.session_id
    await torpor.delete(first.session_id)


async def test_a_text_that_is_empty_is_refused(torpor, session):
    with pytest.raises(InvalidRequest, match="at least 1 character"):
        await torpor.turn(session.id, "Thanks.", stop=[""])
