"""Between LangChain's messages and the runtime's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.utils.function_calling import convert_to_openai_tool

from agent_runtime.errors import TextOnly, WrongMessage
from agent_runtime.frameworks import Said, in_call_order, typed_arguments, with_one_system_text
from agent_runtime.kept_turns import KeptTurn
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from tools.calls import ToolCall
from tools.define import ToolSpec


@dataclass
class Following:
    """What an answer in a session followed, for the next one: the head, and the turns after it that
    are kept until the store is back."""

    head: str | None = None
    kept: list[KeptTurn] = field(default_factory=list)


_NOT_SAID = ("tool_use", "tool_call", "reasoning", "thinking")  # blocks of an answer


def spec_of(tool: Any) -> ToolSpec:
    """A tool in any form that LangChain takes."""
    function = convert_to_openai_tool(tool)["function"]
    return ToolSpec(
        name=function["name"],
        description=function.get("description", ""),
        parameters=function.get("parameters") or {"type": "object", "properties": {}},
    )


def said(messages: Sequence[BaseMessage]) -> list[Message]:
    """What the runtime is to read. System messages at the beginning become one; results of tools
    come in the order of their calls, which is how the model knows them.

    Raises TextOnly, WrongMessage.
    """
    return with_one_system_text(in_call_order([_one(message) for message in messages]))


def answer_of(
    result: TurnResult, following: Following, *, tools: Sequence[ToolSpec], model: str
) -> AIMessageChunk:
    """The last piece of an answer: the calls, what it took, and where it is kept; `following`, if
    it is not committed yet."""
    usage = result.usage
    waiting = {"head": following.head, "turns": [one.model_dump() for one in following.kept]}
    kept = result.model_dump(
        include={
            "finish_reason", "stopped_by", "snapshot", "parent", "problems",
            "engine", "failed_over", "durable", "not_durable_because", "mtp_accept_length",
        }
    )  # fmt: skip
    return AIMessageChunk(
        content="",
        additional_kwargs={"reasoning_content": result.reasoning} if result.reasoning else {},
        tool_call_chunks=[
            tool_call_chunk(
                name=call.name,
                args=json.dumps(typed_arguments(call, tools), ensure_ascii=False),
                id=f"call_{uuid.uuid4().hex}",
                index=number,
            )
            for number, call in enumerate(result.tool_calls)
        ],
        usage_metadata=UsageMetadata(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            input_token_details=InputTokenDetails(cache_read=usage.reused_tokens),
        ),
        response_metadata={
            "model_name": model,
            "session": result.session_id,
            "reused_tokens": usage.reused_tokens,
            "recomputed_tokens": usage.recomputed_tokens,
            "recompute_reason": usage.recompute_reason,
            **kept,
            **({"kept": waiting} if following.kept else {}),
        },
        chunk_position="last",
    )


def following_of(metadata: Mapping[str, Any]) -> Following:
    """What an answer with this `response_metadata` leaves for the next one."""
    kept = metadata.get("kept")
    if kept is None:
        return Following(metadata.get("snapshot"))
    return Following(kept["head"], [KeptTurn.model_validate(one) for one in kept["turns"]])


def _one(message: BaseMessage) -> Said:
    match message:
        case HumanMessage():
            return Said(Message(role="user", content=_text(message)))
        case ToolMessage():
            result = Message(role="tool", content=_text(message))
            return Said(result, answers=message.tool_call_id)
        case AIMessage():
            calls = tuple(
                ToolCall(name=call["name"], arguments=call["args"]) for call in message.tool_calls
            )
            answer = Message(role="assistant", content=_text(message), tool_calls=calls)
            return Said(answer, calls=[call["id"] for call in message.tool_calls])
        case SystemMessage():
            return Said(Message(role="system", content=_text(message)))
    raise WrongMessage(
        f"a {type(message).__name__} is nothing that the model can be told; send human, AI, tool "
        "and system messages. Nothing was generated."
    )


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(block["text"])
        elif not (isinstance(message, AIMessage) and block.get("type") in _NOT_SAID):
            raise TextOnly(
                f"content of type {block.get('type')!r} cannot be sent: the models read text. "
                "Nothing was generated."
            )
    return "".join(texts)
