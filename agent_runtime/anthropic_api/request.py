"""What a request may have, and why other things that Anthropic has are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from agent_runtime.anthropic_api.blocks import CacheControl, SaidMessage, TextBlock, Wire
from agent_runtime.openai_api.chat_models import Ours
from agent_runtime.wire.lists import Several

_NOT_HERE = {
    "top_k": "the engine samples by temperature and top_p",
    "container": "there are no containers",
    "mcp_servers": "give the tools of MCP servers as tools, and call them yourself",
    "context_management": "nothing said is ever left out or changed",
    "inference_geo": "the service runs where it runs",
    "diagnostics": "`torpor.recompute_reason` of every answer says why anything was read again",
    "user_profile_id": "send an API key of the tenant",
    "workspace_id": "send an API key of the tenant",
}
_NOT_OF_TOOLS = {
    "defer_loading": "every tool is told to the model",
    "input_examples": "put them into the description",
}


class CustomTool(Wire):
    """eager_input_streaming: accepted; a call's input comes in one piece when it is whole"""

    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    description: str = ""
    input_schema: dict[str, Any]
    strict: bool = False
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: Several[Literal["direct"]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _runs_at_the_client(cls, sent: object) -> object:
        if isinstance(sent, Mapping):
            kind = sent.get("type")
            if kind not in (None, "custom"):
                raise ValueError(
                    f"tools of type {str(kind)[:80]!r} are Anthropic's own, and the model here was "
                    "not trained for them; describe it as a tool of type `custom`"
                )
            _refuse(sent, _NOT_OF_TOOLS)
        return sent


class AutoChoice(Wire):
    type: Literal["auto"]
    disable_parallel_tool_use: bool = False


class AnyChoice(Wire):
    type: Literal["any"]
    disable_parallel_tool_use: bool = False


class ToolChoice(Wire):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(Wire):
    type: Literal["none"]


class JsonFormat(Wire):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ThinkingOn(Wire):
    """budget_tokens: after which the thinking is ended"""

    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1024)
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(Wire):
    type: Literal["adaptive"]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingOff(Wire):
    type: Literal["disabled"]


Thinking = Annotated[ThinkingOn | ThinkingAdaptive | ThinkingOff, Field(discriminator="type")]


class Metadata(Wire):
    """user_id: accepted, and not kept"""

    user_id: str | None = Field(default=None, max_length=512)


class CountRequest(Wire):
    """What a prompt is made of."""

    model: str
    messages: Several[SaidMessage] = Field(min_length=1, max_length=100_000)
    system: str | Several[TextBlock] | None = None
    tools: Several[CustomTool] = Field(default=[])
    tool_choice: Annotated[
        AutoChoice | AnyChoice | ToolChoice | NoChoice, Field(discriminator="type")
    ] = AutoChoice(type="auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    cache_control: CacheControl | None = None
    """For the last block."""
    speed: Literal["standard"] | None = None
    torpor: Ours = Ours()
    thread: dict[str, Any] | None = None
    """Refused in a way that Anthropic's clients know: they send the whole conversation instead."""

    @property
    def shows_thinking(self) -> bool:
        """Whether what the model thinks is told; it is unless somebody asks for less."""
        return getattr(self.thinking, "display", None) != "omitted"

    @model_validator(mode="before")
    @classmethod
    def _has_what_there_is(cls, sent: object) -> object:
        if isinstance(sent, Mapping):
            _refuse(sent, _NOT_HERE)
        return sent


class MessagesRequest(CountRequest):
    max_tokens: int = Field(ge=1, le=65536)
    stream: bool = False
    temperature: float = Field(default=1.0, ge=0, le=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop_sequences: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=16)
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @model_validator(mode="after")
    def _leaves_room_for_the_answer(self) -> Self:
        if isinstance(self.thinking, ThinkingOn) and self.thinking.budget_tokens >= self.max_tokens:
            raise ValueError("thinking.budget_tokens must be less than max_tokens")
        return self


def _refuse(sent: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    for name, why in reasons.items():
        if sent.get(name):
            raise ValueError(f"{name} is not served: {why}")
