"""How much a model is to think, by the options that its template has."""

import pytest

from agent_runtime.errors import BadRequest, Unsupported
from agent_runtime.messages.efforts import efforts_of, thinking_switched
from agent_runtime.messages.template import Template
from agent_runtime.turns.thinking import ending_of
from agent_runtime.wire.messages import Message

from .desk import Desk, prompt_of, thinks

GPT_OSS = """{%- if reasoning_effort is not defined -%}{%- set reasoning_effort = 'medium' -%}
{%- endif -%}{{- 'Reasoning: ' + reasoning_effort -}}"""
COMPARED = """{%- if reasoning_effort == 'none' -%}<think></think>
{%- elif reasoning_effort | default('high') in ['high', 'max'] -%}Think.{%- endif -%}"""
SWITCHED = "{{- 'on' if thinking else 'off' -}}"


@pytest.fixture
def desk_of(store, server, objects, checkpoints):
    return lambda name: Desk(store, checkpoints[name], server.url, objects)


def test_levels_are_those_that_the_template_has_options_for(checkpoints):
    known = {
        "nano": ["none", "high"],
        "super": ["none", "low", "high"],
        "ultra": ["none", "low", "high"],
        "chatml": [],
        "demo": ["none", "high"],
    }
    assert {name: list(checkpoints[name].chat.efforts) for name in known} == known
    assert list(efforts_of(Template(GPT_OSS))) == ["low", "medium", "high"]
    assert list(efforts_of(Template(COMPARED))) == ["none", "high", "max"]
    assert list(efforts_of(Template(SWITCHED))) == ["none", "high"]


@pytest.mark.parametrize("name", ["super", "ultra"])
async def test_an_effort_is_shown_as_the_template_shows_it(desk_of, name):
    desk = desk_of(name)
    session = await desk.create(template={"low_effort": True})
    said = Message(role="user", content="Tick.")
    for effort, hinted, thought in (
        (None, True, True), ("none", False, False), ("low", True, True), ("high", False, True),
    ):  # fmt: skip
        text = desk.text(await desk.ask(session.id, said, effort=effort))
        assert ("{reasoning effort: low}" in text, thinks(text)) == (hinted, thought)


async def test_what_the_template_does_not_know_is_refused_with_what_it_knows(desk_of):
    session = await desk_of("super").create()
    said = Message(role="user", content="Tick.")
    with pytest.raises(Unsupported, match=r"'medium'.*none, low, high") as refused:
        await desk_of("super").ask(session.id, said, effort="medium")
    assert refused.value.param == "effort"
    with pytest.raises(Unsupported, match="no efforts"):
        await desk_of("chatml").ask(session.id, said, effort="none")


async def test_an_effort_and_an_option_that_says_otherwise_are_refused(desk_of):
    desk = desk_of("nano")
    session = await desk.create()
    said = Message(role="user", content="Tick.")
    with pytest.raises(BadRequest, match="enable_thinking=False"):
        await desk.ask(session.id, said, effort="none", template={"enable_thinking": True})
    agreed = await desk.ask(session.id, said, effort="none", template={"enable_thinking": False})
    assert prompt_of(agreed) == prompt_of(await desk.ask(session.id, said, effort="none"))


def test_thinking_that_cannot_be_switched_is_as_the_template_has_it(checkpoints):
    nano, chatml = (checkpoints[name].chat.template for name in ("nano", "chatml"))
    assert thinking_switched(nano, on=False, opens_thinking=True, param="thinking") == {
        "enable_thinking": False
    }
    assert thinking_switched(chatml, on=False, opens_thinking=False, param="thinking") == {}
    with pytest.raises(Unsupported, match="always thinks"):
        thinking_switched(chatml, on=False, opens_thinking=True, param="thinking")


def test_thinking_is_ended_as_the_template_ends_it(checkpoints):
    endings = {
        "nano": "\n</think>\n",
        "super": "\n</think>\n",
        "ultra": "</think>",
        "chatml": "\n</think>\n",
        "demo": "\n</think>\n",
    }
    assert {name: ending_of(checkpoints[name].chat) for name in endings} == endings
