"""Holds calls against the tools that were declared to the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tools.arguments import SchemaArguments
from tools.budget import bounded
from tools.calls import ParsedMessage, ToolCall
from tools.tool import ToolSpec


def against(
    message: ParsedMessage, tools: Sequence[ToolSpec], *, strings_only: bool
) -> ParsedMessage:
    """The same calls with arguments as the schemas have them; what is wrong with them is reported.

    No call is dropped: whoever runs them tells the model what is wrong.
    strings_only: the format has no other values, so a string says nothing about the type
    """
    with bounded([call.arguments for call in message.calls]):
        return _checked(message, tools, strings_only)


def _checked(
    message: ParsedMessage, tools: Sequence[ToolSpec], strings_only: bool
) -> ParsedMessage:
    specs = {tool.name: tool for tool in tools}
    calls: list[ToolCall] = []
    problems = dict.fromkeys(message.problems)
    for call in message.calls:
        spec = specs.get(call.name)
        if spec is None:
            problems[f"there is no tool named {call.name}"] = None
            calls.append(call)
            continue
        checked = SchemaArguments(spec.parameters).check(call.arguments, quoted=not strings_only)
        for name, value in checked.arguments.items():
            if not strings_only and value != call.arguments[name]:
                problems[f"parameter {name} of {call.name} was given as text"] = None
        for line in (*checked.wrong, *checked.notes):
            problems[f"parameter {line.removeprefix('- ')} (in the call of {call.name})"] = None
        calls.append(ToolCall(name=call.name, arguments=checked.arguments))
    return dataclasses.replace(message, calls=tuple(calls), problems=tuple(problems))
