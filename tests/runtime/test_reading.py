"""What a turn tells of reasoning, text and calls, and what a chat format knows of thinking."""

import contextlib
import itertools

import pytest

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.turns.reading import read
from agent_runtime.wire.events import EVENTS, Reasoning, Text, ToolCalled, encoded, replayed
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from engine.launch import checked_model
from engine.profiles import PROFILES
from tests.results import turn_result
from tools.calls import ToolCall
from tools.formats import HERMES, QWEN3_CODER, parse
from tools.tool import ToolSpec

ADD = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
ADD_JSON = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'

SPEC = ToolSpec(
    name="add",
    description="Adds.",
    parameters={"type": "object", "properties": {"a": {"type": "integer"}}},
)


async def told(message: str, *, thinking: bool, width: int = 3, format: str = QWEN3_CODER):
    async def pieces():
        for start in range(0, len(message), width):
            yield message[start : start + width]

    return [event async for event in read(pieces(), format, thinking=thinking, tools=[SPEC])]


def joined(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("width", [1, 2, 7, 1000])
@pytest.mark.parametrize(("format", "call"), [(QWEN3_CODER, ADD), (HERMES, ADD_JSON)])
async def test_reasoning_text_and_calls_are_told_apart(format, call, width):
    message = f"Hm.\n\nTwo  steps.\n</think>\n\nI add <b>.\n{call}\n{call}"
    events = await told(message, thinking=True, width=width, format=format)
    whole = parse(message, format, thinking=True, tools=[SPEC])
    assert joined(events, Reasoning) == whole.reasoning == "Hm.\n\nTwo  steps."
    assert joined(events, Text) == whole.text == "I add <b>."
    calls = [event for event in events if isinstance(event, ToolCalled)]
    assert [ToolCall(name=c.name, arguments=c.arguments) for c in calls] == list(whole.calls)
    assert calls[0].arguments == {"a": 1}
    kinds = [kind for kind, _ in itertools.groupby(map(type, events))]
    assert kinds == [Reasoning, Text, ToolCalled]


async def test_what_may_still_become_a_tag_is_told_at_the_end():
    events = await told("a <", thinking=False, width=1)
    assert joined(events, Text) == "a <"


async def test_a_call_that_was_cut_off_is_not_told():
    assert await told(ADD[:-30], thinking=False) == []


def test_every_event_is_read_back_from_the_wire():
    call = ToolCall(name="add", arguments={"a": "1"})
    result = turn_result(text="t", reasoning="r", tool_calls=[call], token_ids=[1])
    events = replayed(result)
    assert [type(event) for event in events] == [Reasoning, Text, ToolCalled, TurnResult]
    for event in events:
        name, data, *_ = encoded(event).splitlines()
        kind = EVENTS[name.removeprefix("event: ")]
        assert kind.model_validate_json(data.removeprefix("data: ")) == event


def with_prompt(folder, prompt: str) -> ChatFormat:
    """The demo model's chat format, whose generation prompt ends in `prompt`."""
    model = checked_model(PROFILES["demo"].model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(model / name)
    template = (model / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        template + "{%- if add_generation_prompt %}{{ '" + prompt + "' }}{%- endif %}"
    )
    with contextlib.suppress(FileNotFoundError):
        (folder / "config.json").symlink_to(model / "config.json")
    return ChatFormat(folder)


@pytest.mark.parametrize(
    ("prompt", "thinks"), [("<think>\\n", True), ("<think></think>", False), ("", False)]
)
def test_a_prompt_tells_whether_the_answer_begins_with_thinking(tmp_path, prompt, thinks):
    chat = with_prompt(tmp_path, prompt)
    said = [Message(role="user", content="<think> is a tag, and so is </think> or <think>")]
    opening = chat.opening(said, system=None, tools=[])
    assert chat.thinks_after(opening) is thinks
    # An answer that was cut off in its thinking is gone on with there.
    assert chat.thinks_after([*opening, *chat.encode("so far")]) is thinks
    assert not chat.thinks_after([*opening, *chat.encode("so far</think>")])
    assert not chat.thinks_after([*opening, chat.eos_id])
