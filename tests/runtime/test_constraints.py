"""Answers that must be something: the engine is held to it token by token, with MTP too."""

import json
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError
from xgrammar import GrammarCompiler, GrammarMatcher, TokenizerInfo, allocate_token_bitmask

from agent_runtime.demo.script import SYSTEM
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import EMPTY
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sdk import ApiError
from agent_runtime.turns.attempt import Attempts
from agent_runtime.turns.constraints import structural_tag
from agent_runtime.turns.generation import Generation
from agent_runtime.turns.placing import Placement
from agent_runtime.wire.constraints import Constraints, NamedTool
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from engine.client import Chunk
from engine.errors import EngineUnreachable
from engine.profiles import PROFILES
from tools.define import ToolSpec
from tools.formats import HERMES, QWEN3_CODER, parse

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "colour": {"enum": ["red", "blue"]}},
    "required": ["x", "colour"],
}
TOOLS = [
    {
        "name": "move",
        "description": "Move.",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "integer"}, "how": {"type": "string"}},
            "required": ["to"],
        },
    },
    {"name": "stop", "description": "Stop.", "parameters": {"type": "object", "properties": {}}},
]
MOVE = (
    "<tool_call>\n<function=move>\n<parameter=to>\n7\n</parameter>\n"
    "<parameter=how>\nfast, <b>now</b>\n</parameter>\n</function>\n</tool_call>"
)
MOVE_JSON = (
    '<tool_call>\n{"name": "move", "arguments": {"to": 7, "how": "fast, <b>now</b>"}}\n</tool_call>'
)
STOP_JSON = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
BOUNDED = {
    "name": "pick",
    "description": "Pick.",
    "parameters": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["fast", "slow"]},
            "sure": {"type": "boolean"},
            "ways": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 3},
            "why": {"type": "string", "pattern": "[a-z<>]{1,6}"},
        },
        "required": ["kind", "why"],
        "additionalProperties": False,
    },
}
STOP = "<tool_call>\n<function=stop>\n</function>\n</tool_call>"
REQUIRED = {"tool_choice": "required"}
ONE_CALL = {"tool_choice": "required", "parallel_tool_calls": False}


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(PROFILES["demo"].model)


@pytest.fixture(scope="module")
def grammars(chat):
    """xgrammar, as the engine uses it, with the demo model's tokens."""
    tokenizer = chat.tokenizer
    vocabulary = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    metadata = TokenizerInfo._detect_metadata_from_hf(tokenizer.to_str())
    return GrammarCompiler(
        TokenizerInfo(
            vocabulary,
            vocab_type=metadata["vocab_type"],
            add_prefix_space=metadata["add_prefix_space"],
            stop_token_ids=[chat.eos_id],
        )
    )


@pytest.fixture
def fits(chat, grammars):
    """Whether a text is one that an answer may be, from its first token to its end."""

    def fits(text, *, format=QWEN3_CODER, thinking=False, tools=TOOLS, **asked):
        tag = structural_tag(Constraints(**asked), tools, format, thinking=thinking)
        matcher = GrammarMatcher(grammars.compile_structural_tag(tag))
        return all(map(matcher.accept_token, [*chat.encode(text), chat.eos_id]))

    return fits


@pytest.mark.parametrize(
    ("asked", "text", "may"),
    [
        (REQUIRED, MOVE, True),
        (REQUIRED, f"\n{MOVE}\n", True),  # as templates write it
        (REQUIRED, f"{MOVE}\n{STOP}\n", True),
        (ONE_CALL, f"{MOVE}\n{STOP}", False),
        (REQUIRED, MOVE.replace("7", "seven"), False),
        (REQUIRED, MOVE.replace("=to", "=from"), False),
        (REQUIRED, f"I do. {MOVE}", False),
        (REQUIRED, "Moved.", False),
        ({"tool_choice": {"name": "stop"}}, STOP, True),
        ({"tool_choice": {"name": "stop"}}, MOVE, False),
        ({"tool_choice": "none"}, "7 < 9, and that is all.", True),
        ({"tool_choice": "none"}, f"Well. {STOP}", False),
        ({"strict_calls": True}, f"I do. {MOVE} And {STOP} Done.", True),
        ({"strict_calls": True}, "Moved.", True),
        ({"parallel_tool_calls": False}, f"I do. {MOVE}", True),
        ({"parallel_tool_calls": False}, f"I do. {MOVE}\n{STOP}", False),
        ({"parallel_tool_calls": False}, "Moved.", True),
        ({"strict_calls": True}, f"I do. {MOVE.replace('=to', '=from')}", False),
        ({"json_schema": POINT}, '{"x": 1, "colour": "red"}', True),
        ({"json_schema": POINT}, '{"x": 1, "colour": "green"}', False),
        ({"json_schema": POINT}, STOP, True),
        ({"json_schema": POINT, "tool_choice": "none"}, STOP, False),
        ({"regex": "ba+"}, "baa", True),
        ({"regex": "ba+"}, "baab", False),
        ({"ebnf": 'root ::= "a" | "b" root', "tool_choice": "none"}, "bba", True),
        ({"ebnf": 'root ::= "a" | "b" root', "tool_choice": "none"}, "bb", False),
    ],
)
def test_an_answer_is_what_was_asked_for(fits, asked, text, may):
    assert fits(text, **asked) is may


@pytest.mark.parametrize(
    ("asked", "text", "may"),
    [
        (REQUIRED, MOVE_JSON, True),
        (REQUIRED, f"\n{MOVE_JSON}\n", True),  # as templates write it
        (REQUIRED, f"{MOVE_JSON}\n{STOP_JSON}\n", True),
        (ONE_CALL, f"{MOVE_JSON}\n{STOP_JSON}", False),
        (REQUIRED, MOVE_JSON.replace("7", "seven"), False),
        (REQUIRED, MOVE_JSON.replace('"to"', '"from"'), False),
        (REQUIRED, MOVE_JSON.replace("move", "fly"), False),
        (REQUIRED, f"I do. {MOVE_JSON}", False),
        (REQUIRED, MOVE, False),
        ({"tool_choice": {"name": "stop"}}, STOP_JSON, True),
        ({"tool_choice": {"name": "stop"}}, MOVE_JSON, False),
        ({"tool_choice": "none"}, '7 < 9 in {"a": 1}, and that is all.', True),
        ({"tool_choice": "none"}, f"Well. {STOP_JSON}", False),
        ({"tool_choice": "none"}, '{"name": "stop"}\n</tool_call>', False),
        ({"strict_calls": True}, f"I do. {MOVE_JSON} And {STOP_JSON} Done.", True),
        ({"strict_calls": True}, f"I do. {MOVE_JSON.replace('7', 'true')}", False),
        ({"parallel_tool_calls": False}, f"I do. {MOVE_JSON}\n{STOP_JSON}", False),
        ({"json_schema": POINT}, '{"x": 1, "colour": "red"}', True),
        ({"json_schema": POINT}, STOP_JSON, True),
    ],
)
def test_calls_in_json_are_what_was_asked_for(fits, asked, text, may):
    assert fits(text, format=HERMES, **asked) is may


@pytest.mark.parametrize("format", [QWEN3_CODER, HERMES])
def test_whatever_a_grammar_lets_an_engine_say_is_read_as_calls_that_fit(chat, grammars, format):
    """A model that knows nothing, and takes any token that it may."""
    tools = [ToolSpec.model_validate(tool) for tool in (BOUNDED, TOOLS[1])]
    tag = structural_tag(Constraints(**REQUIRED), [BOUNDED, TOOLS[1]], format, thinking=False)
    compiled = grammars.compile_structural_tag(tag)
    chance, called = random.Random(5), set()
    for _ in range(60):
        matcher, ids = GrammarMatcher(compiled), []
        while not matcher.is_terminated() and len(ids) < 400:
            mask = allocate_token_bitmask(1, chat.tokenizer.get_vocab_size())
            matcher.fill_next_token_bitmask(mask)
            bits = mask.numpy().view("uint8")
            may = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
            # Ends when it may, or it would go on with calls until it is cut off.
            ids.append(chat.eos_id if chat.eos_id in may else chance.choice(may))
            assert matcher.accept_token(ids[-1])
        message = parse(chat.decode(ids[:-1]), format, tools=tools)
        assert message.problems == ()
        assert message.text == ""
        called |= {call.name for call in message.calls}
        assert message.calls
    assert called == {"pick", "stop"}


def test_thinking_that_is_open_stays_free(fits):
    answer = '{"x": 1, "colour": "red"}'
    assert fits(f"Hm <b>.</think>\n\n{answer}", thinking=True, json_schema=POINT)
    assert not fits(f"Hm.</think>\n\nSo {answer}", thinking=True, json_schema=POINT)
    assert not fits(f"Hm.</think>{answer}", json_schema=POINT)


def test_nothing_is_asked_of_an_answer_by_itself():
    for format in (QWEN3_CODER, HERMES):
        assert structural_tag(Constraints(), TOOLS, format, thinking=True) is None
        one = Constraints(parallel_tool_calls=False)
        assert structural_tag(one, [], format, thinking=True) is None


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "a", "json_schema": POINT},
        {"regex": "a", "tool_choice": "required"},
    ],
)
def test_what_cannot_be_meant_is_refused(asked):
    with pytest.raises(ValidationError):
        TurnRequest(**{"messages": [Message(role="user", content="Hi.")], **asked})


async def test_the_engine_answers_with_json_of_a_schema(torpor, session):
    for temperature in (0, 1):
        turn = await torpor.turn(
            session.id, "Hello.", json_schema=POINT, tool_choice="none", temperature=temperature
        )
        said = json.loads(turn.text)
        assert isinstance(said["x"], int)
        assert said["colour"] in ("red", "blue")


async def test_the_engine_calls_a_tool_where_the_model_would_not(torpor, session):
    assert not (await torpor.turn(session.id, "Thanks.")).tool_calls
    turn = await torpor.turn(session.id, "Thanks.", tool_choice="required", max_tokens=256)
    assert turn.finish_reason == "stop"
    assert turn.tool_calls
    assert not turn.problems


async def test_the_engine_calls_the_tool_that_is_named(torpor, session):
    question = "What is 318 + 264?"
    free = await torpor.turn(session.id, question)
    fork = await torpor.fork(session.id, tokens=0)
    named = await torpor.turn(fork.id, question, tool_choice=NamedTool(name="file_search"))
    assert [call.name for call in free.tool_calls] == ["calculator"]
    assert {call.name for call in named.tool_calls} == {"file_search"}
    await torpor.delete(fork.id)


async def test_a_call_that_the_model_would_make_stays_the_same(torpor, session):
    question = "What is 318 + 264?"
    free = await torpor.turn(session.id, question)
    fork = await torpor.fork(session.id, tokens=0)
    held = await torpor.turn(fork.id, question, tool_choice="required", parallel_tool_calls=False)
    assert held.token_ids == free.token_ids
    assert held.mtp_accept_length > 1
    await torpor.delete(fork.id)


async def test_no_tool_is_called_where_none_may_be(torpor, session):
    turn = await torpor.turn(session.id, "What is 318 + 264?", tool_choice="none")
    assert not turn.tool_calls
    assert "<tool_call>" not in turn.text


async def test_a_pattern_holds_beside_a_session_that_is_free(torpor, session):
    pattern = "(yes|no), [0-9]{2}"
    turn = await torpor.turn(session.id, "Hello.", regex=pattern, tool_choice="none")
    assert re.fullmatch(pattern, turn.text)
    assert (await torpor.turn(session.id, "Thanks.")).text == "You are welcome."


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"json_schema": {"type": "nonsense"}}, "grammar_refused", "'nonsense' is not .*[$].type"),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, "grammar_refused", "unique"),
        ({"ebnf": "root ::= ("}, "grammar_refused", "engine cannot hold"),
        ({"regex": "("}, "grammar_refused", "engine cannot hold"),
        ({"regex": "(["}, "grammar_refused", "engine cannot hold"),
        ({"tool_choice": NamedTool(name="fly")}, "unknown_tool", "fly"),
    ],
)
async def test_what_cannot_be_held_to_is_refused_by_name(torpor, session, asked, code, words):
    with pytest.raises(ApiError) as refused:
        await torpor.turn(session.id, "Hello.", **asked)
    assert (refused.value.code, refused.value.status) == (code, 400)
    assert re.search(f"{words}.*[.] The session is unchanged", str(refused.value), re.DOTALL)
    assert ".cc:" not in str(refused.value)
    assert (await torpor.get(session.id)).head is None


async def test_a_call_is_required_only_of_who_has_tools(torpor):
    bare = await torpor.create(system=SYSTEM)
    with pytest.raises(ApiError, match="tools are: none"):
        await torpor.turn(bare.id, "Hello.", tool_choice="required")
    await torpor.delete(bare.id)


async def test_what_a_tool_asks_of_its_arguments_cannot_be_left_out(torpor):
    tool = ToolSpec(
        name="pick",
        description="Pick.",
        parameters={"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 3}}},
    )
    picking = await torpor.create(system=SYSTEM, tools=[tool])
    with pytest.raises(ApiError, match="multipleOf"):
        await torpor.turn(picking.id, "Hello.", tool_choice="required")
    await torpor.delete(picking.id)


class Dying:
    """An engine that gives one token and is gone, in the place of one that is killed."""

    record = SimpleNamespace(
        boot_id="boot", page_size=64, engine_id="engine",
        kv_object_bytes=1, state_object_bytes=64, prefill_chunk=64,
    )  # fmt: skip
    turns = 0

    def __init__(self, chat):
        self.client = self
        self._chat = chat

    async def generate(self, *_, **__):
        yield Chunk(tuple(self._chat.encode("n")), 0, None, None)
        raise EngineUnreachable("engine is gone.")

    async def while_alive(self, following):
        return await following


async def test_no_other_engine_goes_on_in_the_middle_of_what_is_held_to_a_grammar(chat):
    """It would hold the rest to the whole grammar."""
    attempts = Attempts(SimpleNamespace(router=None), None, Residency(), chat, None)
    session = SimpleNamespace(id="ses-1", body=SimpleNamespace(meta={"tools": []}))
    request = TurnRequest(messages=[Message(role="user", content="Hi.")], regex="no")
    generation = Generation(Placement(Dying(chat), "it is there"))
    pieces = attempts.text(session, EMPTY, request, generation, salt="s", make_ready=None)
    with pytest.raises(EngineUnreachable, match="held to a grammar; repeat the turn"):
        async for _ in pieces:
            pass
    assert len(generation.ids) == 1
