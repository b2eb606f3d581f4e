"""Items of the Responses API and messages of the runtime, in both directions.

reasoning, message, function_call, function_call   one message of the assistant
function_call_output                               one result, tied to its call by `call_id`
message                                            what a user says, or a system text
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent_runtime.errors import BadRequest
from agent_runtime.frameworks import Said
from agent_runtime.openai_api.messages import Ids, arguments_of, call_of, text_of
from agent_runtime.openai_api.responses.requests import NOTHING_DONE, unsupported
from agent_runtime.wire.messages import Message
from tools.calls import ToolCall
from tools.define import ToolSpec

Item = dict[str, Any]

_FIELDS = {
    "message": {"role", "content"},
    "function_call": {"call_id", "name", "arguments"},
    "function_call_output": {"call_id", "output"},
    "reasoning": {"summary", "content", "encrypted_content"},
}
_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "reasoning": "rs_",
}
_ROLES = ("user", "assistant", "system", "developer")
_STATUSES = ("in_progress", "completed", "incomplete")


def items_of(given: str | Sequence[Mapping[str, Any]], ids: Ids, param: str) -> list[Item]:
    """Items as they are kept and shown: each with its type and an id.

    Raises Unsupported, BadRequest, TextOnly, WrongMessage.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_item(one, ids, place, f"{param}[{place}]") for place, one in enumerate(given)]


def distinct(items: Sequence[Item], taken: Collection[str], ids: Ids) -> list[Item]:
    """The items, those with new ids whose own are `taken` or come twice: a list is paged by them,
    and an item is deleted by its id."""
    seen, told = set(taken), []
    for place, item in enumerate(items):
        if item["id"] in seen:
            item = item | {"id": ids.of(_PREFIXES[item["type"]], -2, place)}
        seen.add(item["id"])
        told.append(item)
    return told


def require_distinct(items: Sequence[Item], known: Collection[str]) -> None:
    """Raises BadRequest for an item whose id is `known`, or another's before it."""
    seen = set(known)
    for item in items:
        if item["id"] in seen:
            raise BadRequest(
                f"Duplicate item found with id {item['id'][:100]}. Remove duplicate items from "
                f"your input and try again. {NOTHING_DONE}",
                param="input",
            )
        seen.add(item["id"])


def said_in(items: Sequence[Item]) -> list[Said]:
    """The messages that items are. What one answer of the model became is one message again."""
    said: list[Said] = []
    answer = _Answer()
    for item in items:
        kind = item["type"]
        if kind in ("function_call_output", "message") and item.get("role") != "assistant":
            said += answer.ended()
            answer = _Answer()
        match kind:
            case "function_call_output":
                result = Message(role="tool", content=_text(item["output"]))
                said.append(Said(result, answers=item["call_id"]))
            case "function_call":
                answer.calls.append(call_of(item["name"], item["arguments"], "input"))
                answer.ids.append(item["call_id"])
            case "reasoning":
                if answer.text is not None or answer.calls:
                    said += answer.ended()
                    answer = _Answer()
                answer.reasoning += "".join(part["text"] for part in item.get("content") or ())
            case _ if item["role"] == "assistant":
                if answer.text is not None:
                    said += answer.ended()
                    answer = _Answer()
                answer.text = _text(item["content"])
            case _:
                role = "user" if item["role"] == "user" else "system"
                said.append(Said(Message(role=role, content=_text(item["content"]))))
    return said + answer.ended()


def message_item(item_id: str, text: str | None, *, status: str) -> Item:
    """text: None before any came"""
    content = [] if text is None else [text_part(text)]
    return {
        "id": item_id, "type": "message", "role": "assistant", "status": status, "content": content,
    }  # fmt: skip


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(item_id: str, text: str | None, *, status: str) -> Item:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(ids: Ids, place: int, call: ToolCall, tools: Sequence[ToolSpec]) -> Item:
    """place: among the calls of the answer"""
    return {
        "id": ids.of("fc_", place),
        "type": "function_call",
        "call_id": ids.of("call_", place),
        "name": call.name,
        "arguments": arguments_of(call, tools),
        "status": "completed",
    }


@dataclasses.dataclass
class _Answer:
    reasoning: str = ""
    text: str | None = None
    calls: list[ToolCall] = dataclasses.field(default_factory=list)
    ids: list[str] = dataclasses.field(default_factory=list)

    def ended(self) -> list[Said]:
        if self.text is None and not self.calls and not self.reasoning:
            return []
        message = Message(
            role="assistant",
            content=self.text or "",
            tool_calls=tuple(self.calls),
            reasoning=self.reasoning,
        )
        return [Said(message, calls=self.ids)]


def _item(given: Mapping[str, Any], ids: Ids, place: int, param: str) -> Item:
    kind = given.get("type") or ("message" if "role" in given else None)
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise unsupported(
            param, f"an item of type {str(kind)[:80]!r} is nothing that is known here"
        )
    unknown = sorted(given.keys() - _FIELDS[kind] - {"id", "type", "status"})
    if unknown:
        raise BadRequest(
            f"a {kind} has no {', '.join(unknown)[:200]}. {NOTHING_DONE}",
            param=f"{param}.{unknown[0]}",
        )
    item_id = given.get("id") or ids.of(_PREFIXES[kind], -1, place)
    _require_text(item_id, f"{param}.id")
    status = given.get("status") or "completed"
    if status not in _STATUSES:
        raise _one_of(_STATUSES, f"{param}.status")
    item: Item = {"id": item_id, "type": kind, "status": status}
    match kind:
        case "message":
            return item | _message(given, param)
        case "function_call":
            for name in ("call_id", "name", "arguments"):
                item[name] = _require_text(given.get(name), f"{param}.{name}")
            call_of(item["name"], item["arguments"], f"{param}.arguments")
            return item
        case "function_call_output":
            item["call_id"] = _require_text(given.get("call_id"), f"{param}.call_id")
            item["output"] = text_of(given.get("output"), f"{param}.output", kinds=("input_text",))
            return item
    return item | _reasoning(given, param)


def _message(given: Mapping[str, Any], param: str) -> Item:
    role = given.get("role")
    if role not in _ROLES:
        raise _one_of(_ROLES, f"{param}.role")
    if given.get("content") is None:
        raise BadRequest(f"a message has `content`. {NOTHING_DONE}", param=f"{param}.content")
    kinds = ("output_text", "input_text") if role == "assistant" else ("input_text",)
    text = text_of(given.get("content"), f"{param}.content", kinds=kinds)
    part = text_part(text) if role == "assistant" else {"type": "input_text", "text": text}
    return {"role": role, "content": [part]}


def _reasoning(given: Mapping[str, Any], param: str) -> Item:
    if given.get("encrypted_content"):
        raise unsupported(
            f"{param}.encrypted_content", "it was encrypted elsewhere, and nobody here can read it"
        )
    text = text_of(given.get("content"), f"{param}.content", kinds=("reasoning_text",))
    content = [{"type": "reasoning_text", "text": text}] if text else []
    if given.get("summary"):
        raise unsupported(
            f"{param}.summary", "nothing that is summed up can be read; send it whole"
        )
    return {"summary": [], "content": content}


def _one_of(known: Sequence[str], param: str) -> BadRequest:
    return BadRequest(f"`{param}` is one of {', '.join(known)}. {NOTHING_DONE}", param=param)


def _require_text(value: object, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadRequest(f"`{param}` is a text. {NOTHING_DONE}", param=param)
    return value


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
