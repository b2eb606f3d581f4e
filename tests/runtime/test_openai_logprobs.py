"""Tokens of an answer, told apart into reasoning and the rest, and spelled out in bytes."""

import pytest

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api.logprobs import Spelling, logprobs_of
from agent_runtime.turns.thinking import reasoning_tokens
from agent_runtime.wire.turns import TokenLogprob
from engine.launch import checked_model
from engine.profiles import PROFILES
from tests.results import turn_result

CHAT = ChatFormat(checked_model(PROFILES["demo"].model))


def result(generated, *, ended=True, **fields):
    """That the model has generated so."""
    ids = CHAT.tokenizer.encode(generated, add_special_tokens=False).ids
    ids += [CHAT.eos_id] if ended else []
    given = {"text": generated, "finish_reason": "stop" if ended else "length"} | fields
    return turn_result(
        token_ids=ids,
        usage={"prompt_tokens": 1, "completion_tokens": len(ids)},
        logprobs=[TokenLogprob(token=token, logprob=-1.0, top=[]) for token in ids],
        **given,
    )


def spelled(positions):
    return b"".join(bytes(one["bytes"]) for one in positions).decode()


@pytest.mark.parametrize("text", ["Good day.", "Käse, 你好\n\x07", " a  b ", ""])
def test_tokens_spell_the_text_and_not_what_ends_it(text):
    shown = logprobs_of(result(text), CHAT, top=0)
    assert spelled(shown["content"]) == text
    assert "reasoning_content" not in shown
    cut = logprobs_of(result(text, ended=False), CHAT, top=0)
    assert cut["content"] == shown["content"]


def test_every_token_is_spelled_as_the_tokenizer_does():
    spelling = Spelling(CHAT.tokenizer)
    for token in range(CHAT.tokenizer.get_vocab_size()):
        text = spelling.bytes_of(token).decode("utf-8", "replace")
        assert text == CHAT.decode([token])


def test_reasoning_has_a_list_of_its_own():
    answer = result("Hm, so.</think>Good day.", reasoning="Hm, so.", text="Good day.")
    shown = logprobs_of(answer, CHAT, top=0)
    assert spelled(shown["reasoning_content"]) == "Hm, so.</think>"
    assert spelled(shown["content"]) == "Good day."
    assert reasoning_tokens(CHAT, answer.token_ids, answer.reasoning) == len(
        shown["reasoning_content"]
    )


def test_what_was_cut_off_while_thinking_is_all_reasoning():
    answer = result("Hm, so", ended=False, reasoning="Hm, so", text="")
    assert reasoning_tokens(CHAT, answer.token_ids, answer.reasoning) == len(answer.token_ids)
    assert reasoning_tokens(CHAT, result("Good day.").token_ids, "") == 0


def test_the_list_ends_before_the_text_that_ended_the_answer():
    answer = result("Good day, all day.", ended=False, stopped_by="all", text="Good day,")
    shown = spelled(logprobs_of(answer, CHAT, top=0)["content"])
    assert "Good day, ".startswith(shown)
    assert shown.startswith("Good day")
