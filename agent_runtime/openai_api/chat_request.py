"""A request of `/v1/chat/completions` as a conversation of the runtime's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_runtime.errors import BadRequest, WrongMessage
from agent_runtime.frameworks import Said
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.efforts import options_for
from agent_runtime.openai_api.chat_models import ChatMessage, ChatRequest, FunctionTool, ToolChoice
from agent_runtime.openai_api.messages import asked_of, call_of, conversation, text_of
from agent_runtime.wire.constraints import NamedTool
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import ConversationRequest
from state_store.labels import is_label
from tools.define import ToolSpec

_ANY_JSON = {"type": "object"}
_TEMPERATURE = 1.0  # what OpenAI documents for requests that name none


def conversation_of(
    request: ChatRequest, chat: ChatFormat | None, *, stateless: bool, answer_tokens: int
) -> ConversationRequest:
    """chat: None if an endpoint renders the prompt; stateless: see CreateSession; answer_tokens: at
    most, if the request does not say

    Raises BadRequest, TextOnly, WrongMessage, Unsupported.
    """
    said = [_said(message, place) for place, message in enumerate(request.messages)]
    tools = [spec_of(tool) for tool in request.tools or ()]
    return asked_of(
        conversation(said, "messages"),
        tools=tools,
        stateless=stateless,
        labels=_labels(request.metadata or {}),
        **_lengths(request, answer_tokens),
        **_sampling(request),
        **_thinking(request, chat),
        **_held_to(request, bool(tools)),
        **request.torpor.model_dump(exclude_none=True),
    )


def spec_of(tool: FunctionTool) -> ToolSpec:
    return ToolSpec(
        name=tool.function.name,
        description=tool.function.description or "",
        parameters=tool.function.parameters or {"type": "object", "properties": {}},
    )


def _labels(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of it can be searched for."""
    return {name: value for name, value in metadata.items() if is_label(name, value)}


def _said(message: ChatMessage, place: int) -> Said:
    where = f"messages[{place}]"
    text = text_of(message.content, f"{where}.content")
    _require_role(message, "tool", message.tool_call_id, f"{where}.tool_call_id")
    _require_role(message, "assistant", message.tool_calls, f"{where}.tool_calls")
    _require_role(message, "assistant", message.reasoning_content, f"{where}.reasoning_content")
    _require_role(message, "assistant", message.name, f"{where}.name")
    if message.role == "tool":
        if message.tool_call_id is None:
            raise WrongMessage(
                "a result names the call that it answers. Nothing was generated.",
                param=f"{where}.tool_call_id",
            )
        return Said(Message(role="tool", content=text), answers=message.tool_call_id)
    calls = message.tool_calls or []
    return Said(
        Message(
            role="system" if message.role == "developer" else message.role,
            content=text,
            tool_calls=tuple(
                call_of(
                    call.function.name,
                    call.function.arguments,
                    f"{where}.tool_calls[{number}].function.arguments",
                )
                for number, call in enumerate(calls)
            ),
            reasoning=message.reasoning_content or "",
        ),
        calls=[call.id for call in calls],
    )


def _require_role(message: ChatMessage, role: str, value: object, param: str) -> None:
    if value and message.role != role:
        raise WrongMessage(
            f"only messages of role {role!r} have this, and this is of {message.role!r}. Nothing "
            "was generated.",
            param=param,
        )


def _lengths(request: ChatRequest, answer_tokens: int) -> dict[str, Any]:
    given = {request.max_completion_tokens, request.max_tokens} - {None}
    if len(given) > 1:
        raise BadRequest(
            "max_tokens and max_completion_tokens are one limit, and say two. Nothing was "
            "generated.",
            param="max_tokens",
        )
    if given:
        return {"max_tokens": given.pop()}
    return {"max_tokens": answer_tokens, "fit": True}


def _sampling(request: ChatRequest) -> dict[str, Any]:
    if request.top_logprobs and not request.logprobs:
        raise BadRequest(
            "top_logprobs needs logprobs to be true. Nothing was generated.", param="top_logprobs"
        )
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    given = {
        "temperature": _TEMPERATURE if request.temperature is None else request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": stop,
        # The engine says none without at least one alternative.
        "top_logprobs": max(1, request.top_logprobs or 0) if request.logprobs else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _thinking(request: ChatRequest, chat: ChatFormat | None) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        if chat is not None:
            options_for(request.reasoning_effort, chat.efforts, param="reasoning_effort")
        asked["effort"] = request.reasoning_effort
    if request.chat_template_kwargs is not None:
        if request.torpor.template is not None:
            raise BadRequest(
                "chat_template_kwargs and torpor.template are one thing, and both are given. "
                "Nothing was generated.",
                param="chat_template_kwargs",
            )
        asked["template"] = request.chat_template_kwargs
    return asked


def _held_to(request: ChatRequest, has_tools: bool) -> dict[str, Any]:
    held: dict[str, Any] = {}
    choice = request.tool_choice
    if isinstance(choice, ToolChoice):
        held["tool_choice"] = NamedTool(name=choice.function.name)
    elif choice is not None and (has_tools or choice == "required"):
        held["tool_choice"] = choice
    if request.parallel_tool_calls is not None and has_tools:
        held["parallel_tool_calls"] = request.parallel_tool_calls
    if any(tool.function.strict for tool in request.tools or ()):
        held["strict_calls"] = True
    # An answer that must be calls says nothing that could be in a format.
    if held.get("tool_choice", "auto") in ("auto", "none"):
        held |= _format(request)
    return held


def _format(request: ChatRequest) -> dict[str, Any]:
    asked = request.response_format
    if asked is None or asked.type == "text":
        return {}
    if asked.type == "json_object":
        return {"json_schema": _ANY_JSON}
    if asked.json_schema is None:
        raise BadRequest(
            "a format of type json_schema has one as `json_schema`. Nothing was generated.",
            param="response_format.json_schema",
        )
    return {"json_schema": asked.json_schema.schema_ or _ANY_JSON}
