"""Messages as Anthropic's clients send them: blocks of content.

What has no form here is refused by name: images, documents, search results, what tools that run at
Anthropic gave back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent_runtime.lists import Several


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    content: str | Several[UserBlock]


class AssistantMessage(Wire):
    role: Literal["assistant"]
    content: str | Several[AssistantBlock]


SaidMessage = Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]


def text_of(content: str | list[TextBlock] | None) -> str:
    """Blocks become paragraphs."""
    if content is None or isinstance(content, str):
        return content or ""
    return paragraphs([block.text for block in content])


def paragraphs(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text)
