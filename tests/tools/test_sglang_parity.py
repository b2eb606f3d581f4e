"""Well-formed calls are read as SGLang's own detectors read them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.define import ToolSpec
from tools.formats import parse

KINDS = {
    "text": ({"type": "string"}, st.text("abc <>{}\"'&\n1", max_size=12)),
    "count": ({"type": "integer"}, st.integers()),
    "share": ({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False, width=32)),
    "sure": ({"type": "boolean"}, st.booleans()),
    "list": (
        {"type": "array"},
        st.lists(st.integers() | st.text("ab \"'", max_size=4), max_size=3),
    ),
    "made": ({"type": "object"}, st.dictionaries(st.text("ab", min_size=1), st.integers())),
    "some": ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, st.integers() | st.none()),
    "kind": ({"enum": ["fast", "slow"]}, st.sampled_from(["fast", "slow"])),
}
SPEC = ToolSpec(
    name="work",
    description="Works.",
    parameters={"type": "object", "properties": {name: kind[0] for name, kind in KINDS.items()}},
)
arguments = st.fixed_dictionaries({}, optional={name: kind[1] for name, kind in KINDS.items()})
messages = st.lists(arguments, min_size=1, max_size=3)
texts = st.sampled_from(["", "Let me see.\n"])


@pytest.fixture(scope="module")
def sglang():
    """Asks SGLang how it reads a text."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("sglang_calls.py"))],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def read(text: str, format: str, pieces: int | None = None) -> list[list]:
            case = {"format": format, "tool": SPEC.model_dump(), "text": text, "pieces": pieces}
            process.stdin.write(json.dumps(case) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield read
        process.kill()  # ending by itself takes SGLang seconds


def read(text: str, format: str) -> list[list]:
    message = parse(text, format, tools=[SPEC])
    assert message.problems == ()
    return [[call.name, call.arguments] for call in message.calls]


def as_xml(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def written(calls: list[dict], format: str) -> str:
    if format == "hermes":
        bodies = [json.dumps({"name": "work", "arguments": call}) for call in calls]
    else:
        bodies = [
            "<function=work>\n"
            + "".join(f"<parameter={k}>\n{as_xml(v)}\n</parameter>\n" for k, v in call.items())
            + "</function>"
            for call in calls
        ]
    return "".join(f"<tool_call>\n{body}\n</tool_call>\n" for body in bodies)


@pytest.mark.parametrize("format", ["qwen3_coder", "hermes"])
@given(calls=messages, text=texts)
@settings(max_examples=60)
def test_whole_messages_are_read_alike(sglang, format, calls, text):
    message = text + written(calls, format)
    found = read(message, format)
    assert found == sglang(message, format)
    assert found == [["work", call] for call in calls]


@given(calls=messages, text=texts, pieces=st.integers(1, 12))
@settings(max_examples=60)
def test_streamed_messages_are_read_alike(sglang, calls, text, pieces):
    message = text + written(calls, "qwen3_coder")
    assert read(message, "qwen3_coder") == sglang(message, "qwen3_coder", pieces)
