"""The demo model knows its tools only in the words it was trained on."""

import json
from pathlib import Path

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

import engine.demo_model
from engine.demo_model import dialogues
from tools.calculator import calculator
from tools.calls import ToolCall
from tools.file_search import file_search
from tools.formats import parse
from tools.registry import Registry

TEMPLATE = Path(engine.demo_model.__file__).with_name("chat_template.jinja")


@pytest.fixture(scope="module")
def template() -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps
    return environment.from_string(TEMPLATE.read_text())


@pytest.fixture
def declared(tmp_path):
    registry = Registry([calculator, file_search(tmp_path)])
    return [{"type": "function", "function": spec.model_dump()} for spec in registry.specs()]


def test_the_tools_are_declared_as_in_training(declared, template):
    assert declared == dialogues.TOOLS
    system = [{"role": "system", "content": dialogues.SYSTEM_TEXT}]
    rendered = template.render(messages=system, tools=declared)
    assert rendered == template.render(messages=system, tools=dialogues.TOOLS)
    assert "For example 12 + 34" in rendered


def test_calls_are_read_as_the_template_writes_them(template):
    exchange = dialogues.calculate(12, "*", 51)
    written = template.render(messages=exchange.messages()[:2])
    answer = written.split("<|im_start|>assistant\n")[1].removesuffix("<|im_end|>\n")
    message = parse(answer)
    assert message.calls == (ToolCall(name="calculator", arguments={"expression": "12 * 51"}),)
    assert (message.text, message.reasoning, message.problems) == ("", "", ())


@pytest.mark.parametrize("operator", ["+", "-", "*"])
async def test_the_calculator_answers_as_in_training(operator):
    exchange = dialogues.calculate(12, operator, 51)
    assert exchange.tool is not None
    outcome = await calculator.call({exchange.tool.key: exchange.tool.argument})
    assert outcome.text == exchange.tool.result
