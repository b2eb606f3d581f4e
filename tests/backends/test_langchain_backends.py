"""LangChain's tests of what a model must know more for than the demo model does.

The endpoint's answers are given here; everything behind them is the real thing. The other tests of
the suite run on the demo model: tests/runtime/test_langchain_standard.py.
"""

import json

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from agent_runtime.langchain import ChatTorpor
from tests.backends.endpoint import DONE, USAGE, Scripted, event

MAGIC = ("magic_function", {"input": 3})
JOKE = json.dumps({"setup": "Why did the cat sit on the computer?", "punchline": "For the mouse."})


class Suite(ChatModelIntegrationTests):
    """Not collected: its tests are called one by one."""

    @property
    def chat_model_class(self):
        return ChatTorpor

    @property
    def supports_json_mode(self):
        return True


def called(name, arguments):
    """An answer that calls a tool, its arguments in two pieces."""
    text = json.dumps(arguments, ensure_ascii=False)
    first = {"index": 0, "id": "c1", "function": {"name": name, "arguments": text[:4]}}
    second = {"index": 0, "function": {"arguments": text[4:]}}
    stream = event({"tool_calls": [first]}) + event({"tool_calls": [second]})
    return Scripted(stream + event(finish_reason="tool_calls") + USAGE + DONE)


def said(text):
    stream = event({"content": text[:9]}) + event({"content": text[9:]})
    return Scripted(stream + event(finish_reason="stop") + USAGE + DONE)


def customer(name):
    return called("unicode_customer", {"customer_name": name, "description": "技術"})


@pytest.fixture
def model(runtime):
    return ChatTorpor(url=runtime.url, temperature=0, max_tokens=96)


@pytest.fixture
def answers(endpoint):
    """The endpoint's next answers, all of which must be asked for."""
    yield endpoint.scripted
    left = len(endpoint.scripted)
    endpoint.scripted.clear()
    assert left == 0


@pytest.mark.parametrize(
    ("test", "given", "options"),
    [
        ("test_tool_calling", [called(*MAGIC)] * 2, ()),
        ("test_bind_runnables_as_tools", [called("greeting_generator", {"answer_style": "x"})], ()),
        ("test_structured_output", [said(JOKE)] * 2, ("pydantic",)),
        ("test_structured_output_pydantic_2_v1", [said(JOKE)] * 4, ()),
        ("test_json_mode", [said(JOKE)] * 4, ()),
        ("test_agent_loop", [called("get_weather", {"location": "SF"}), said("It is sunny.")], ()),
        (
            "test_unicode_tool_call_integration",
            [customer("你好啊集团"), customer("こんにちは株式会社")],
            (),
        ),
    ],
)
def test_a_model_that_knows_more_passes(model, answers, test, given, options):
    answers += given
    getattr(Suite(), test)(model, *options)


@pytest.mark.parametrize(
    ("test", "given", "options"),
    [
        ("test_tool_calling_async", [called(*MAGIC)] * 2, ()),
        ("test_structured_output_async", [said(JOKE)] * 2, ("pydantic",)),
    ],
)
async def test_a_model_that_knows_more_passes_awaited(model, answers, test, given, options):
    answers += given
    await getattr(Suite(), test)(model, *options)


def test_what_the_model_thinks_is_told_apart_from_what_it_says(model, answers):
    thought = event({"reasoning_content": "A cat, "}) + event({"reasoning_content": "then."})
    answers.append(Scripted(thought + said("Meow.").body))
    answer = model.invoke("Say what a cat says.")
    assert answer.text == "Meow."
    assert answer.content_blocks == [
        {"type": "reasoning", "reasoning": "A cat, then."},
        {"type": "text", "text": "Meow."},
    ]
