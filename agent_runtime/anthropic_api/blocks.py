"""Messages as Anthropic's clients send them: blocks of content.

What has no form here is refused by name: images, documents, search results, what tools that run at
Anthropic gave back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from agent_runtime.wire.lists import FewFields, Several

_NOT_READ = {
    "image": "the models read text",
    "document": "the models read text; give what it says as text",
    "search_result": "give what was found as text",
    "redacted_thinking": "thinking is not encrypted here, and nothing else can be read",
    "container_upload": "there are no containers",
}
_RAN_ELSEWHERE = "it belongs to a tool that runs at Anthropic, and none does here"


def _readable(content: object) -> object:
    """Refuse blocks that have no form here by name, before their fields are looked at."""
    for place, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_result":
            _readable(block.get("content"))
        if not isinstance(kind, str) or kind in _FORMS:
            continue
        elsewhere = kind == "server_tool_use" or kind.endswith("_tool_result")
        why = _NOT_READ.get(kind, _RAN_ELSEWHERE if elsewhere else "there is no such block")
        raise ValueError(f"block {place} is of type {kind[:80]!r}: {why}")
    return content


_FORMS = {"text", "thinking", "tool_use", "tool_result"}
_Readable = BeforeValidator(_readable)


class Wire(FewFields):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CacheControl(Wire):
    """A place that somebody wants to come back to. ttl: what is kept here stays longer."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class TextBlock(Wire):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[list[Any], Field(max_length=0)] | None = None


class ThinkingBlock(Wire):
    """signature: is not looked at"""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class DirectCaller(Wire):
    type: Literal["direct"]


class ToolUseBlock(Wire):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: DirectCaller | None = None
    toolset_name: None = None


class ToolResultBlock(Wire):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Several[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]


class UserMessage(Wire):
    role: Literal["user"]
    content: Annotated[str | Several[UserBlock], _Readable]


class AssistantMessage(Wire):
    role: Literal["assistant"]
    content: Annotated[str | Several[AssistantBlock], _Readable]


SaidMessage = Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]


def text_of(content: str | list[TextBlock] | None) -> str:
    """Blocks become paragraphs."""
    if content is None or isinstance(content, str):
        return content or ""
    return paragraphs([block.text for block in content])


def paragraphs(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text)
