"""Calls as models have bent them. Each case is written after a public issue, which it names."""

import pytest

from tools.calls import ToolCall
from tools.define import ToolSpec
from tools.formats import CallParser, parse


def call(name: str, /, **arguments) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def tool(name: str, /, **properties) -> ToolSpec:
    parameters = {"type": "object", "properties": properties}
    return ToolSpec(name=name, description="Does.", parameters=parameters)


TEXT = {"type": "string"}
TOOLS = [
    tool("glob", pattern=TEXT),
    tool("exec", cmd=TEXT),
    tool("weather", city=TEXT),
    tool("write", path=TEXT, content=TEXT),
    tool("edit", edits={"type": "array"}),
    tool("now"),
]

XML = [
    (
        "ollama/ollama#18530: prose, a blank line, and no opener",
        "I look for the files first.\n\n<function=glob>\n<parameter=pattern>\n**/*.go\n"
        "</parameter>\n</function>\n</tool_call>",
        [call("glob", pattern="**/*.go")],
        "I look for the files first.",
        "had no <tool_call> before it",
    ),
    (
        "ollama/ollama#16686: no opener, and nothing before it",
        "<function=glob>\n<parameter=pattern>\n*.md\n</parameter>\n</function>\n</tool_call>",
        [call("glob", pattern="*.md")],
        "",
        "had no <tool_call> before it",
    ),
    (
        "ollama/ollama#17353: neither opener nor end around it",
        "<function=exec>\n<parameter=cmd>\nls\n</parameter>\n</function>\n",
        [call("exec", cmd="ls")],
        "",
        "had no <tool_call> before it",
    ),
    (
        "ollama/ollama#17742: what names no tool is prose",
        "A generic is written\n<function=T>\n<parameter=x>\n1\n</parameter>\n</function>\n",
        [],
        "A generic is written\n<function=T>\n<parameter=x>\n1\n</parameter>\n</function>",
        None,
    ),
    (
        "ollama/ollama#17276: a parameter that the function's end closes",
        "<tool_call>\n<function=exec>\n<parameter=cmd>\nls -la\n</function>\n</tool_call>",
        [call("exec", cmd="ls -la")],
        "",
        "parameter cmd of exec was not closed",
    ),
    (
        "ollama/ollama#18563: a long file with tags of its own in it",
        "<tool_call>\n<function=write>\n<parameter=path>\na.html\n</parameter>\n<parameter=content>\n"
        "<b>&amp;</b> <a<b> </p>\n<function>\n</function>\n</tool_call>",
        [call("write", path="a.html", content="<b>&amp;</b> <a<b> </p>\n<function>")],
        "",
        "parameter content of write was not closed",
    ),
    (
        "ollama/ollama#12380: what is no XML in a value",
        "<tool_call>\n<function=exec>\n<parameter=cmd>\ncat <<EOF > a && echo '<' \n</parameter>\n"
        "</function>\n</tool_call>",
        [call("exec", cmd="cat <<EOF > a && echo '<' ")],
        "",
        None,
    ),
    (
        "ollama/ollama#14834: the message ends in the middle",
        "<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=content>\n"
        "x = 1",
        [call("write", path="a", content="x = 1")],
        "",
        "the call of write was not closed",
    ),
    (
        "ollama/ollama#16810: a function that a parameter's end closes",
        "<tool_call>\n<function=glob>\n<parameter=pattern>\n*\n</parameter>\n</parameter>\n</tool_call>",
        [call("glob", pattern="*")],
        "",
        "the call of glob was not closed",
    ),
    *(
        (
            f"sgl-project/sglang#27337: a parameter closed by {end}",
            f"<tool_call>\n<function=weather>\n<parameter=city>\n上海\n{end}",
            [call("weather", city="上海")],
            "",
            "parameter city of weather was not closed",
        )
        for end in (
            "</parameter/>\n</function>\n</tool_call>",
            "</parameter1>\n</function>\n</tool_call>",
            "</parameter\n</function>\n</tool_call>",
            "</parameter_function>\n</tool_call>",
            "</parameterfunction>\n</tool_call>",
        )
    ),
    (
        "sgl-project/sglang#39836: a parameter begins again inside its own value",
        '<tool_call>\n<function=edit>\n<parameter=edits>\n[{"a": 1},\n<parameter=edits>\n'
        '[{"a": 1}, {"b": 2}]\n</parameter>\n</function>\n</tool_call>',
        [call("edit", edits=[{"a": 1}, {"b": 2}])],
        "",
        "parameter edits of edit was given more than once; the last one counts",
    ),
    (
        "NVIDIA/TensorRT-LLM#13684: Nemotron 3 calls without ending its thinking",
        "<think>\nThe user wants the time.\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        [call("now")],
        "",
        "the thinking was not closed",
    ),
    (
        "ggml-org/llama.cpp#18077: Nemotron 3 leaves the last parameter open",
        "<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=content>\nb\n"
        "</function>\n</tool_call>",
        [call("write", path="a", content="b")],
        "",
        "parameter content of write was not closed",
    ),
    (
        "waybarrios/vllm-mlx#55: the second call of a message",
        "<tool_call>\n<function=now>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=glob>\n<parameter=pattern>\n*\n</parameter>\n</function>\n</tool_call>",
        [call("now"), call("glob", pattern="*")],
        "",
        None,
    ),
    (
        "vllm-project/vllm#33965: the same tool twice, everything on one line",
        "<tool_call><function=glob><parameter=pattern>a</parameter></function></tool_call>"
        "<tool_call><function=glob><parameter=pattern>b</parameter></function></tool_call>",
        [call("glob", pattern="a"), call("glob", pattern="b")],
        "",
        None,
    ),
    (
        "NVIDIA/TensorRT-LLM#19227: a call without arguments",
        "Now.\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        [call("now")],
        "Now.",
        None,
    ),
    (
        "NousResearch/hermes-agent#6841: a name that was written twice names no tool",
        "<tool_call>\n<function=globglob>\n<parameter=pattern>\n*\n</parameter>\n</function>\n"
        "</tool_call>",
        [call("globglob", pattern="*")],
        "",
        "there is no tool named globglob",
    ),
    (
        "ollama/ollama#16383: another wrapper is no call",
        "<function_invocation>\n<name>now</name>\n</function_invocation>",
        [],
        "<function_invocation>\n<name>now</name>\n</function_invocation>",
        None,
    ),
]

HERMES = [
    (
        "vllm-project/vllm#45167: the closing tag inside a string",
        '<tool_call>\n{"name": "write", "arguments": {"path": "a", "content": "x </tool_call> y"'
        "}}\n</tool_call>",
        [call("write", path="a", content="x </tool_call> y")],
        "",
        None,
    ),
    (
        "vllm-project/vllm#17790: two calls between the tags of one",
        '<tool_call>\n{"name": "now", "arguments": {}}\n'
        '{"name": "glob", "arguments": {"pattern": "*"}}\n</tool_call>',
        [call("now"), call("glob", pattern="*")],
        "",
        "several calls were in one <tool_call>",
    ),
    (
        "vllm-project/vllm#21301: no arguments at all",
        '<tool_call>\n{"name": "now"}\n</tool_call>',
        [call("now")],
        "",
        "the call of now had no arguments",
    ),
    (
        "vllm-project/vllm#19419: arguments that are empty text",
        '<tool_call>\n{"name": "now", "arguments": ""}\n</tool_call>',
        [call("now")],
        "",
        "the call of now had no arguments",
    ),
    (
        "vllm-project/vllm#22885: the last bracket is missing",
        '<tool_call>\n{"name": "glob", "arguments": {"pattern": "*"}\n</tool_call>',
        [call("glob", pattern="*")],
        "",
        "closing brackets were missing",
    ),
    (
        "vllm-project/vllm#21544: a bracket is open in a value",
        '<tool_call>\n{"name": "exec", "arguments": {"cmd": "mkdir -p test/{test1,test2"}}\n'
        "</tool_call>",
        [call("exec", cmd="mkdir -p test/{test1,test2")],
        "",
        None,
    ),
    (
        "vllm-project/vllm#26561: a model of the XML format is read as JSON",
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        [],
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "<tool_call> began no call and is taken as text",
    ),
    (
        "vllm-project/vllm#32638: several calls in one message",
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n<tool_call>\n'
        '{"name": "glob", "arguments": {"pattern": "*"}}\n</tool_call>',
        [call("now"), call("glob", pattern="*")],
        "",
        None,
    ),
    (
        "NousResearch/hermes-agent#6841: arguments that were written twice",
        '<tool_call>\n{"name": "exec", "arguments": {"cmd": "a"}{"cmd": "a"}}\n</tool_call>',
        [],
        '<tool_call>\n{"name": "exec", "arguments": {"cmd": "a"}{"cmd": "a"}}\n</tool_call>',
        "could not be read and is taken as text",
    ),
    (
        "sgl-project/sglang#26793: calls of another format are not read silently",
        "<function=now>\n</function>",
        [],
        "<function=now>\n</function>",
        None,
    ),
]

# Not from issues: what the same parsers must not trip over.
MORE_HERMES = [
    ("arguments as a string", '{"name": "glob", "arguments": "{\\"pattern\\": \\"*\\"}"}',
     [call("glob", pattern="*")], "the arguments of glob were JSON inside a string"),
    ("parameters", '{"name": "glob", "parameters": {"pattern": "*"}}',
     [call("glob", pattern="*")], "the arguments of glob were called parameters"),
    ("a list", '[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
     [call("now"), call("now")], "several calls were in one <tool_call>"),
    ("Python", "{'name': 'glob', 'arguments': {'pattern': '*'}}",
     [call("glob", pattern="*")], "it was written as Python and not as JSON"),
    ("line breaks", '{"name": "exec", "arguments": {"cmd": "a\nb"}}',
     [call("exec", cmd="a\nb")], "line breaks in strings were not escaped"),
    ("a comma too many", '{"name": "glob", "arguments": {"pattern": "*"},}',
     [call("glob", pattern="*")], "it was written as Python and not as JSON"),
    ("an escape that JSON does not have", '{"name": "exec", "arguments": {"cmd": "grep \\d a"}}',
     [call("exec", cmd="grep \\d a")], "it was written as Python and not as JSON"),
    ("one bracket too many", '{"name": "now", "arguments": {}}}',
     [call("now")], "there were too many closing brackets"),
    ("twice", '{"name": "glob", "arguments": {"pattern": "a", "pattern": "b"}}',
     [call("glob", pattern="b")], "pattern was given more than once; the last one counts"),
    ("a number too large", '{"name": "add", "arguments": {"a": -1e999}}',
     [call("add", a="-1e999")], "a number that is too large for one is taken as text"),
    ("half a character", '{"name": "glob", "arguments": {"pattern": "\\ud83d"}}',
     [call("glob", pattern="\ufffd")], "halves of characters were replaced"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "written", "calls", "text", "problem"),
    [pytest.param("qwen3_coder", *case[1:], id=case[0]) for case in XML]
    + [pytest.param("hermes", *case[1:], id=case[0]) for case in HERMES]
    + [
        pytest.param("hermes", f"<tool_call>\n{body}\n</tool_call>", calls, "", problem, id=name)
        for name, body, calls, problem in MORE_HERMES
    ],
)
def test_a_bent_call_is_neither_lost_nor_invented_and_is_reported(
    format, written, calls, text, problem
):
    message = parse(written, format, tools=TOOLS)
    assert list(message.calls) == calls
    assert message.text == text
    if problem is None:
        assert message.problems == ()
    else:
        assert [found for found in message.problems if problem in found] != []


@pytest.mark.parametrize(
    "end", range(len('<tool_call>\n{"na'), len('<tool_call>\n{"name": "now"}'))
)
def test_a_json_call_cut_off_by_a_limit_is_not_taken(end):
    written = '<tool_call>\n{"name": "now"}'[:end]
    message = parse(written, "hermes", cut_off=True)
    assert message.calls == ()
    assert "a <tool_call> was cut off and is not taken" in message.problems


def test_what_cannot_be_mended_in_one_way_is_text_and_is_reported():
    written = '<tool_call>\n{"name": "exec", "arguments": {"cmd": "ls}}\n</tool_call>'
    message = parse(written, "hermes", tools=TOOLS)
    assert (message.calls, message.text) == ((), written)
    assert "could not be read and is taken as text" in message.problems[0]


def test_deep_nesting_and_endless_ends_are_read_to_their_end():
    for written in (
        '<tool_call>{"name": "now", "arguments": ' + "[" * 100_000 + "</tool_call>",
        '<tool_call>{" </tool_call>' * 2000,
        "<think>" * 5000 + "<tool_call>{",
    ):
        message = parse(written, "hermes", tools=TOOLS)
        assert message.calls == ()
        assert message.problems != ()


def test_what_is_read_again_is_no_second_time_in_the_reasoning():
    written = '<tool_call>{"name": "</tool_call> or not </think>Five.'
    message = parse(written, "hermes")
    assert (message.text, message.calls) == ("Five.", ())
    assert message.reasoning == '<tool_call>{"name": "</tool_call> or not'


DEEP = "[" * 100 + "]" * 100
NESTED = ToolSpec(
    name="f",
    description="",
    parameters={"type": "object", "properties": {"a": {"type": ["object", "array", "number"]}}},
)


@pytest.mark.parametrize(
    ("value", "arguments", "problem"),
    [
        ('{"x": ["\\ud83d"]}', {"a": {"x": ["\ufffd"]}}, "halves of characters were replaced"),
        (DEEP, {}, "nested more than 60 deep"),
        ("[" * 900 + "]" * 900, {}, "nested more than 60 deep"),
    ],
)
@pytest.mark.parametrize(
    ("format", "before", "after"),
    [
        ("hermes", '{"name": "f", "arguments": {"a": ', "}}"),
        ("qwen3_coder", "<function=f><parameter=a>", "</parameter></function>"),
    ],
)
def test_arguments_that_are_no_json_to_others_are_told_as_such(
    format, before, after, value, arguments, problem
):
    text = f"<tool_call>{before}{value}{after}</tool_call>"
    message = parse(text, format, tools=[NESTED])
    assert [call.arguments for call in message.calls] == [arguments]
    assert any(problem in one for one in message.problems)
    parser = CallParser(format, tools=[NESTED])
    assert parser.read(text).calls == message.calls
    message.calls[0].model_dump_json()
