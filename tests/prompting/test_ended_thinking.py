"""What a model ends in the middle of its limited thinking, without an engine: its tokens are given.

With a real one, see `tests/runtime/test_thinking.py`; what it draws cannot be chosen there.
"""

from __future__ import annotations

import json
from array import array
from types import SimpleNamespace

import pytest

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import History
from agent_runtime.turns.attempt import Attempts
from agent_runtime.turns.generation import Generation
from agent_runtime.turns.placing import Placement
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from engine.client import Chunk
from tests.engine_cpu.server import MODEL

SESSION = SimpleNamespace(id="session", body=SimpleNamespace(meta={"tools": []}))
RECORD = SimpleNamespace(
    boot_id="boot", page_size=4, prefill_chunk=4, kv_object_bytes=8, state_object_bytes=8
)
CALLED = [Message(role="user", content="What is 2 + 2?")]
HELD = [{"json_schema": {"type": "object"}}, {"regex": "[0-9]+"}, {"ebnf": 'root ::= "4"'}]


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(MODEL)


class Given:
    """In an engine's place: gives these tokens, a request's after the other's.

    grammars: what each request was held to
    """

    def __init__(self, chat, *answers):
        self.record, self.client, self.turns = RECORD, self, 0
        self.grammars = []
        self._chat = chat
        self._answers = list(answers)

    async def generate(self, ids, sampling, **_):
        self.grammars.append(sampling.structural_tag)
        for token in self._answers.pop(0)[: sampling.max_new_tokens]:
            yield Chunk((token,), 0, "stop" if token in sampling.stop_token_ids else None, None)
            if token in sampling.stop_token_ids:
                return
        yield Chunk((), 0, "length", None)

    async def while_alive(self, wanted):
        return await wanted

    async def answer(self, **asked):
        """The text, and what came out."""
        request = TurnRequest(messages=CALLED, max_tokens=64, **asked)
        prompt = self._chat.opening(
            CALLED, system=None, tools=[], options={"enable_thinking": True}
        )
        pool = SimpleNamespace(router=None)
        residency = SimpleNamespace(tag=lambda *_: None)
        attempts = Attempts(pool, None, residency, self._chat, None)
        generation = Generation(Placement(self, "the only one"))
        pieces = attempts.text(
            SESSION, History(array("I", prompt), [], 0), request, generation,
            salt="", make_ready=None,
        )  # fmt: skip
        return "".join([piece async for piece in pieces]), generation


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("thought", ["Hm, hm", ""])
async def test_an_answer_that_is_held_to_something_is_given_although_the_thinking_ended_all(
    chat, held, thought
):
    thinking, answer = chat.encode(thought) if thought else [], chat.encode("4")
    engine = Given(chat, [*thinking, chat.eos_id], [*answer, chat.eos_id])
    text, generation = await engine.answer(thinking_tokens=50, **held)
    assert text == f"{thought}\n</think>\n4"
    assert generation.finish_reason == "stop"
    assert generation.ids == [*thinking, *chat.encode("\n</think>\n"), *answer, chat.eos_id]
    free, then = engine.grammars
    assert free is None
    assert json.loads(then)["type"] == "structural_tag"


async def test_an_answer_that_is_held_to_nothing_may_end_with_the_thinking(chat):
    engine = Given(chat, [*chat.encode("Hm"), chat.eos_id])
    text, generation = await engine.answer(thinking_tokens=50)
    assert (text, generation.finish_reason) == ("Hm", "stop")
    assert generation.ids[-1] == chat.eos_id
    assert engine.grammars == [None]
