"""TorporModel: what the Agents SDK's `Runner` calls in the place of OpenAI's models.

    agent = Agent(name="Ann", model=TorporModel("http://127.0.0.1:8700"), tools=[search])
    await Runner.run(agent, "Hello.", session=TorporSession("ann"))

The SDK sends the whole conversation each time; the runtime knows what it has answered before. Items
become messages, and pieces become events, by the SDK's own converters.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from agents.agent_output import AgentOutputSchemaBase
from agents.handoffs import Handoff
from agents.items import ModelResponse, TResponseInputItem, TResponseStreamEvent
from agents.model_settings import ModelSettings
from agents.models.chatcmpl_converter import Converter
from agents.models.chatcmpl_stream_handler import ChatCmplStreamHandler
from agents.models.fake_id import FAKE_RESPONSES_ID
from agents.models.interface import Model, ModelTracing
from agents.tool import Tool
from agents.usage import Usage
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage
from openai.types.responses import Response
from openai.types.responses.response_prompt_param import ResponsePromptParam
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from agent_runtime.errors import BadRequest, TextOnly
from agent_runtime.frameworks import (
    Said,
    in_call_order,
    shown,
    typed_arguments,
    with_one_system_text,
)
from agent_runtime.sdk import Torpor
from agent_runtime.wire.constraints import NamedTool
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from tools.calls import ToolCall
from tools.define import ToolSpec

_SETTINGS = ("temperature", "top_p", "max_tokens", "parallel_tool_calls")  # as a turn names them
_READ = ("tool_choice", "extra_args", "include_usage", "reasoning")


class _Asked(NamedTuple):
    messages: list[Message]
    tools: list[ToolSpec]
    options: dict[str, Any]


class TorporModel(Model):
    """Raises ApiError and ApiUnreachable, and BadRequest or TextOnly for what it cannot do."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8700",
        *,
        api_key: str | None = None,
        name: str = "torpor",
        timeout: float = 600.0,
    ) -> None:
        """name: what responses call the model, which the runtime has one of; timeout: seconds"""
        self._url = url
        self._api_key = api_key
        self._name = name
        self._timeout = timeout

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        """The whole answer; its `response_id` is the snapshot."""
        _require_sent_whole(previous_response_id, conversation_id, prompt)
        asked = _asked(system_instructions, input, model_settings, tools, output_schema, handoffs)
        async with self._torpor() as torpor:
            result = await torpor.converse(asked.messages, tools=asked.tools, **asked.options)
        message: dict[str, Any] = {"role": "assistant", "content": result.text or None}
        if result.tool_calls:
            message["tool_calls"] = _calls(result, asked.tools)
        return ModelResponse(
            output=Converter.message_to_output_items(ChatCompletionMessage.model_validate(message)),
            usage=Usage(
                requests=1,
                input_tokens=result.usage.prompt_tokens,
                output_tokens=result.usage.completion_tokens,
                total_tokens=result.usage.prompt_tokens + result.usage.completion_tokens,
                input_tokens_details=InputTokensDetails(cached_tokens=result.usage.reused_tokens),
                output_tokens_details=OutputTokensDetails(
                    reasoning_tokens=result.usage.reasoning_tokens or 0
                ),
            ),
            response_id=result.snapshot,
        )

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """The answer in events of the Responses API."""
        _require_sent_whole(previous_response_id, conversation_id, prompt)
        asked = _asked(system_instructions, input, model_settings, tools, output_schema, handoffs)
        response = Response(
            id=FAKE_RESPONSES_ID,
            created_at=time.time(),
            model=self._name,
            object="response",
            output=[],
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=False,
        )
        async with contextlib.aclosing(self._chunks(asked)) as chunks:
            async for event in ChatCmplStreamHandler.handle_stream(response, cast("Any", chunks)):
                yield event

    async def _chunks(self, asked: _Asked) -> AsyncGenerator[ChatCompletionChunk]:
        async with self._torpor() as torpor:
            events = torpor.converse_stream(asked.messages, tools=asked.tools, **asked.options)
            async with contextlib.aclosing(shown(events)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield self._chunk({"content": piece})
                        continue
                    calls = [
                        {"index": place, **call}
                        for place, call in enumerate(_calls(piece, asked.tools))
                    ]
                    yield self._chunk({"tool_calls": calls} if calls else {}, piece)

    def _chunk(
        self, delta: dict[str, Any], result: TurnResult | None = None
    ) -> ChatCompletionChunk:
        usage = None
        if result is not None:
            usage = {
                "prompt_tokens": result.usage.prompt_tokens,
                "completion_tokens": result.usage.completion_tokens,
                "total_tokens": result.usage.prompt_tokens + result.usage.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": result.usage.reused_tokens},
                "completion_tokens_details": {"reasoning_tokens": result.usage.reasoning_tokens},
            }
        return ChatCompletionChunk.model_validate(
            {
                "id": FAKE_RESPONSES_ID,
                "choices": [{"index": 0, "delta": delta}],
                "created": int(time.time()),
                "model": self._name,
                "object": "chat.completion.chunk",
                "usage": usage,
            }
        )

    def _torpor(self) -> Torpor:
        return Torpor(self._url, api_key=self._api_key, timeout=self._timeout)


def _require_sent_whole(*ids: object) -> None:
    if any(one is not None for one in ids):
        raise BadRequest(
            "conversations of the Responses API, its stored prompts and previous_response_id are "
            "not served here; send the conversation, or give the Runner a TorporSession. Nothing "
            "was generated."
        )


def _asked(
    system: str | None,
    input: str | list[TResponseInputItem],
    settings: ModelSettings,
    tools: Sequence[Tool],
    output_schema: AgentOutputSchemaBase | None,
    handoffs: Sequence[Handoff[Any, Any]],
) -> _Asked:
    functions = [Converter.tool_to_openai(tool)["function"] for tool in tools]
    functions += [Converter.convert_handoff_tool(handoff)["function"] for handoff in handoffs]
    specs = [
        ToolSpec(
            name=function["name"],
            description=function.get("description", ""),
            parameters=function.get("parameters") or {"type": "object", "properties": {}},
        )
        for function in functions
    ]
    options = _options(settings)
    if any(function.get("strict") for function in functions):
        options["strict_calls"] = True
    if output_schema is not None and not output_schema.is_plain_text():
        options["json_schema"] = output_schema.json_schema()
    said = [Said(Message(role="system", content=system))] if system else []
    for message in Converter.items_to_messages(input):
        said.append(_said(cast("Mapping[str, Any]", message)))
    return _Asked(with_one_system_text(in_call_order(said)), specs, options)


def _options(settings: ModelSettings) -> dict[str, Any]:
    """Raises BadRequest for settings that would be without effect."""
    given = {name: value for name, value in vars(settings).items() if value is not None}
    unknown = sorted(given.keys() - {*_SETTINGS, *_READ})
    if unknown:
        raise BadRequest(
            f"a turn has no {', '.join(unknown)}; leave it out, or give fields of TurnRequest as "
            "extra_args. Nothing was generated."
        )
    options = {name: value for name, value in given.items() if name in _SETTINGS}
    if settings.reasoning is not None:
        given = settings.reasoning.model_dump(exclude_none=True)
        if given.keys() - {"effort"}:
            raise BadRequest("reasoning is not summed up here; ask for its effort only.")
        options |= given
    match settings.tool_choice:
        case None:
            pass
        case "auto" | "none" | "required":
            options["tool_choice"] = settings.tool_choice
        case str():
            options["tool_choice"] = NamedTool(name=settings.tool_choice)
        case _:
            raise BadRequest("tools of hosted MCP servers cannot be called from here.")
    return options | (settings.extra_args or {})


def _said(message: Mapping[str, Any]) -> Said:
    role, text = message["role"], _text(message.get("content"))
    if role == "tool":
        return Said(Message(role="tool", content=text), answers=message["tool_call_id"])
    calls = message.get("tool_calls", ())
    said = Message(
        role="system" if role == "developer" else role,
        content=text,
        tool_calls=tuple(
            ToolCall(
                name=call["function"]["name"], arguments=json.loads(call["function"]["arguments"])
            )
            for call in calls
        ),
    )
    return Said(said, calls=[call["id"] for call in calls])


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    other = [part["type"] for part in content if part["type"] != "text"]
    if other:
        raise TextOnly(
            f"content of type {other[0]!r} cannot be sent: the models read text. Nothing was "
            "generated."
        )
    return "".join(part["text"] for part in content)


def _calls(result: TurnResult, tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(typed_arguments(call, tools), ensure_ascii=False),
            },
        }
        for call in result.tool_calls
    ]
