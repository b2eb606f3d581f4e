"""What an answer must be: calls of tools, JSON of a schema, a pattern. As a structural tag.

A structural tag is how xgrammar, which holds the engine to it, writes what a text may be. SGLang
passes it on as it is. Thinking that the prompt has opened stays free: what is asked for begins
behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from agent_runtime.errors import UnknownTool
from agent_runtime.wire.constraints import Constraints, NamedTool
from engine.errors import GrammarRefused
from tools.define import ToolSpec
from tools.formats import HERMES, QWEN3_CODER

_Format = dict[str, Any]
# Between the parts of JSON and around parameters. Without a limit a small model that is held to a
# grammar goes on with blanks, which any JSON allows, until its tokens are used up.
_MOST_BLANKS = 1
# What else may not stand in text that calls nothing: parsers read it as a call whose opener is
# missing.
_SIGNS = {
    HERMES: ["</tool_call>", '{"name"', '{ "name"'],
    QWEN3_CODER: ["<function="],
}


def structural_tag(
    asked: Constraints,
    declared: Sequence[Mapping[str, Any]],
    format: str,
    *,
    thinking: bool,
    limited: bool = False,
) -> str | None:
    """What the engine is to hold an answer to, None if to nothing.

    declared: the session's tools, as `ToolSpec` has them
    format:   of calls, see `ChatFormat.calls`
    thinking: whether the prompt ends inside the model's thinking
    limited:  whether that is over when the engine is asked to hold the answer to it

    Raises UnknownTool, GrammarRefused.
    """
    tools = [ToolSpec.model_validate(tool) for tool in declared]
    form = _form(asked, tools, format)
    if form is None:
        return None
    if thinking:
        thought = [] if limited else [_until("</think>")]
        form = _sequence(*thought, _optional("\n\n"), form)
    return json.dumps({"type": "structural_tag", "format": form})


def protocol_fields(asked: Constraints, declared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same for an endpoint of OpenAI's protocol, which has neither patterns nor grammars.

    Raises UnknownTool, GrammarRefused.
    """
    fields: dict[str, Any] = {}
    if asked.tool_choice != "auto":
        tools = [ToolSpec.model_validate(tool) for tool in declared]
        chosen = asked.tool_choice
        if chosen != "none":
            _callable(asked, tools)
        fields["tool_choice"] = (
            {"type": "function", "function": {"name": chosen.name}}
            if isinstance(chosen, NamedTool)
            else chosen
        )
    if not asked.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    if asked.json_schema is not None:
        _require_schema(asked.json_schema)
        schema = {"name": "answer", "schema": asked.json_schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _form(asked: Constraints, tools: Sequence[ToolSpec], format: str) -> _Format | None:
    content = _content(asked)
    if asked.tool_choice == "auto":
        if content is None:
            is_held = asked.strict_calls or not asked.parallel_tool_calls
            return _text_and_calls(asked, tools, format) if tools and is_held else None
        if not tools:
            return content
        return {"type": "or", "elements": [content, _calls(asked, tools, format)]}
    if asked.tool_choice == "none":
        return content or {"type": "any_text", "excludes": ["<tool_call>", *_SIGNS[format]]}
    return _calls(asked, _callable(asked, tools), format)


def _callable(asked: Constraints, tools: Sequence[ToolSpec]) -> list[ToolSpec]:
    """Those of which one must be called."""
    named = asked.tool_choice
    chosen = [tool for tool in tools if not isinstance(named, NamedTool) or tool.name == named.name]
    if not chosen:
        what = f"a call of {named.name}" if isinstance(named, NamedTool) else "a tool call"
        known = ", ".join(tool.name for tool in tools) or "none"
        raise UnknownTool(
            f"{what} is required, and the session's tools are: {known}. The session is unchanged."
        )
    return chosen


def _require_schema(schema: dict[str, Any]) -> None:
    """Raises GrammarRefused for what is no JSON schema, and says where."""
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        raise GrammarRefused(
            f"an answer cannot be held to `json_schema`, which is no JSON schema: {error.message}, "
            f"at {error.json_path}. The session is unchanged."
        ) from error


def _content(asked: Constraints) -> _Format | None:
    if asked.json_schema is not None:
        _require_schema(asked.json_schema)
        return {
            "type": "json_schema",
            "json_schema": asked.json_schema,
            "max_whitespace_cnt": _MOST_BLANKS,
        }
    if asked.regex is not None:
        return {"type": "regex", "pattern": asked.regex}
    return None if asked.ebnf is None else {"type": "grammar", "grammar": asked.ebnf}


def _calls(asked: Constraints, tools: Sequence[ToolSpec], format: str) -> _Format:
    """Calls as `tools/formats` reads them, and with the line ends that templates give them."""
    calls = {
        "type": "tags_with_separator",
        "tags": [_call(tool, format) for tool in tools],
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": not asked.parallel_tool_calls,
    }
    return _sequence(_optional("\n"), calls, _optional("\n"))


def _text_and_calls(asked: Constraints, tools: Sequence[ToolSpec], format: str) -> _Format:
    return {
        "type": "triggered_tags",
        "triggers": ["<tool_call>"],
        "tags": [_call(tool, format) for tool in tools],
        "excludes": _SIGNS[format],
        "stop_after_first": not asked.parallel_tool_calls,
    }


def _call(tool: ToolSpec, format: str) -> _Format:
    if format == HERMES:
        return {
            "type": "tag",
            "begin": f'<tool_call>\n{{"name": {json.dumps(tool.name)}, "arguments": ',
            "content": {
                "type": "json_schema",
                "json_schema": tool.parameters,
                "max_whitespace_cnt": _MOST_BLANKS,
            },
            "end": "}\n</tool_call>",
        }
    return {
        "type": "tag",
        "begin": f"<tool_call>\n<function={tool.name}>\n",
        "content": {
            "type": "json_schema",
            "json_schema": tool.parameters,
            "style": "qwen_xml",
            "max_whitespace_cnt": _MOST_BLANKS,
        },
        "end": ["</function>\n</tool_call>", "\n</function>\n</tool_call>"],
    }


def _until(end: str) -> _Format:
    return {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": end}


def _optional(text: str) -> _Format:
    return {"type": "optional", "content": {"type": "const_string", "value": text}}


def _sequence(*elements: _Format) -> _Format:
    return {"type": "sequence", "elements": list(elements)}
