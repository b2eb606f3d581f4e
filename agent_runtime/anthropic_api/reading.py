"""From Anthropic's request to the runtime's conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_runtime.anthropic_api.blocks import (
    AssistantMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
    paragraphs,
    text_of,
)
from agent_runtime.anthropic_api.request import (
    AnyChoice,
    CountRequest,
    CustomTool,
    MessagesRequest,
    NoChoice,
    ThinkingOff,
    ThinkingOn,
    ToolChoice,
)
from agent_runtime.errors import (
    BadRequest,
    ThreadUnsupportedRequest,
    Unsupported,
    WrongMessage,
)
from agent_runtime.frameworks import Said
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.efforts import options_for, options_with, thinking_switched
from agent_runtime.openai_api.messages import asked_of, conversation
from agent_runtime.wire.constraints import NamedTool
from agent_runtime.wire.messages import Message, OptionValue
from agent_runtime.wire.turns import ConversationRequest
from tools.calls import ToolCall
from tools.define import ToolSpec

_MOST_MARKS = 16


def conversation_of(
    request: MessagesRequest, chat: ChatFormat | None, *, stateless: bool
) -> ConversationRequest:
    """chat: None if an endpoint renders the prompt; stateless: whether one answers that keeps no
    state. Raises as `messages_of`, Unsupported, and BadRequest for options that exclude each other.
    """
    options = request.torpor.model_dump(exclude_none=True) | _thinking(request, chat)
    if request.output_config.format is not None:
        options["json_schema"] = request.output_config.format.schema_
    if any(tool.strict for tool in request.tools):
        options["strict_calls"] = True
    return asked_of(
        messages_of(request),
        marks=[] if stateless else _marks(request),
        tools=specs_of(request.tools),
        stateless=stateless,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop_sequences,
        **_choice(request),
        **options,
    )


def prompt_options(request: CountRequest, chat: ChatFormat) -> dict[str, OptionValue]:
    """Of the model's chat template, for all that the request asks. Raises Unsupported; BadRequest
    for options that exclude each other."""
    asked = _thinking(request, chat)
    template = asked.get("template", request.torpor.template or {})
    return options_with(asked.get("effort"), chat.efforts, template)


def messages_of(request: CountRequest) -> list[Message]:
    """What the model is to read, the system text first.

    Raises WrongMessage, ThreadUnsupportedRequest.
    """
    if request.thread is not None:
        raise ThreadUnsupportedRequest(
            "threads are not served: send the whole conversation, whose known part is not computed "
            "again. Nothing was generated.",
            param="thread",
        )
    system = text_of(request.system)
    said = [Said(Message(role="system", content=system))] if system else []
    for place, message in enumerate(request.messages):
        if isinstance(message, UserMessage):
            said += _of_user(message, f"messages[{place}]")
        else:
            said.append(_of_assistant(message))
    return conversation(said, "messages")


def specs_of(tools: Sequence[CustomTool]) -> list[ToolSpec]:
    return [
        ToolSpec(name=tool.name, description=tool.description, parameters=tool.input_schema)
        for tool in tools
    ]


def _thinking(request: CountRequest, chat: ChatFormat | None) -> dict[str, Any]:
    """Fields of TurnRequest. Raises Unsupported, BadRequest."""
    thinking, effort = request.thinking, request.output_config.effort
    is_off = isinstance(thinking, ThinkingOff)
    if effort is not None:
        if is_off:
            raise Unsupported(
                "`output_config.effort` says how much is thought, and thinking is disabled. "
                "Nothing was generated.",
                param="output_config.effort",
            )
        if chat is not None:
            options_for(effort, chat.efforts, param="output_config.effort")
    asked: dict[str, Any] = {} if effort is None else {"effort": effort}
    if isinstance(thinking, ThinkingOn):
        if request.torpor.thinking_tokens is not None:
            raise BadRequest(
                "`thinking.budget_tokens` and `torpor.thinking_tokens` both say how much is "
                "thought: give one. Nothing was generated.",
                param="torpor.thinking_tokens",
            )
        asked["thinking_tokens"] = thinking.budget_tokens
    if chat is None:
        return asked | ({"effort": "none"} if is_off else {})
    if is_off or isinstance(thinking, ThinkingOn):
        switched = thinking_switched(
            chat.template, on=not is_off, opens_thinking=chat.opens_thinking, param="thinking"
        )
        template = request.torpor.template or {}
        for name in switched.keys() & template.keys():
            if switched[name] != template[name]:
                raise BadRequest(
                    f"`thinking` and `torpor.template` do not agree about {name}. Nothing was "
                    "generated.",
                    param="thinking",
                )
        asked["template"] = {**template, **switched}
    return asked


def _marks(request: CountRequest) -> list[int]:
    """Behind how many of the conversation's messages `cache_control` is. What is marked in the last
    one is kept anyway. Of more than a turn takes, the last."""
    before = [*request.tools, *(request.system if isinstance(request.system, list) else ())]
    marks = [0] if any(one.cache_control for one in before) else []
    messages = 0
    for place, message in enumerate(request.messages[:-1]):
        if isinstance(message, UserMessage):
            messages += len(_of_user(message, f"messages[{place}]"))
        else:
            messages += 1
        if _is_marked(message):
            marks.append(messages)
    return marks[-_MOST_MARKS:]


def _is_marked(message: UserMessage | AssistantMessage) -> bool:
    blocks = [] if isinstance(message.content, str) else message.content
    return any(getattr(block, "cache_control", None) for block in blocks)


def _of_user(message: UserMessage, where: str) -> list[Said]:
    """Results first, then what the user says."""
    if isinstance(message.content, str):
        return [Said(Message(role="user", content=message.content))]
    results: list[Said] = []
    texts: list[str] = []
    for block in message.content:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif texts:
            raise WrongMessage(
                f"{where}: a tool_result comes before what the user says. Nothing was generated.",
                param=where,
            )
        else:
            results.append(_result(block))
    if texts or not results:
        results.append(Said(Message(role="user", content=paragraphs(texts))))
    return results


def _result(block: ToolResultBlock) -> Said:
    text = text_of(block.content)
    if block.is_error:
        text = f"Error: {text}" if text else "Error."
    return Said(Message(role="tool", content=text), answers=block.tool_use_id)


def _of_assistant(message: AssistantMessage) -> Said:
    if isinstance(message.content, str):
        return Said(Message(role="assistant", content=message.content))
    blocks = message.content
    uses = [block for block in blocks if isinstance(block, ToolUseBlock)]
    said = Message(
        role="assistant",
        content=paragraphs([block.text for block in blocks if isinstance(block, TextBlock)]),
        reasoning=paragraphs([b.thinking for b in blocks if isinstance(b, ThinkingBlock)]),
        tool_calls=tuple(ToolCall(name=use.name, arguments=use.input) for use in uses),
    )
    return Said(said, calls=[use.id for use in uses])


def _choice(request: MessagesRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if isinstance(choice, NoChoice):
        return {"tool_choice": "none"}
    options: dict[str, Any] = {"parallel_tool_calls": not choice.disable_parallel_tool_use}
    if isinstance(choice, AnyChoice):
        options["tool_choice"] = "required"
    elif isinstance(choice, ToolChoice):
        options["tool_choice"] = NamedTool(name=choice.name)
    return options
