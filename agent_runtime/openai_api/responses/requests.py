"""What `/v1/responses` is asked, validated at the edge. What cannot be done is refused with why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent_runtime.errors import BadRequest, Unsupported
from agent_runtime.openai_api.chat_models import Metadata, Ours
from agent_runtime.wire.constraints import NamedTool
from agent_runtime.wire.lists import FewFields, Several
from agent_runtime.wire.messages import Effort
from tools.define import ToolSpec

NOTHING_DONE = "Nothing was generated."
TEMPERATURE = 1.0  # what OpenAI documents for requests that name none
LOGPROBS = "message.output_text.logprobs"

UNSUPPORTED: dict[str, str] = {
    "context_management": "a context is never shortened behind the client's back",
    "max_tool_calls": "it counts calls of OpenAI's hosted tools, and there are none here",
    "prompt": "prompts are not kept here; send `instructions` and `input`",
    "prompt_cache_retention": "what a model knows is kept as a session, see `response_ttl`",
}
"""Fields that are always refused, and why."""


class _Asked(FewFields, BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Text(_Asked):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(_Asked):
    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class StreamOptions(_Asked):
    include_obfuscation: bool | None = None


class ConversationId(_Asked):
    id: str


class Function(_Asked):
    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CreateResponse(_Asked):
    """As OpenAI documents it; see docs/openai-responses.md for each field."""

    model: str
    input: str | Several[dict[str, Any]] = []
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationId | None = None
    tools: Several[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=65536)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: Several[str] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    context_management: Any = None
    max_tool_calls: Any = None
    prompt: Any = None
    prompt_cache_retention: Any = None
    torpor: Ours = Ours()

    @model_validator(mode="after")
    def _follows_one_thing(self) -> Self:
        if self.previous_response_id is not None and self.conversation is not None:
            raise ValueError("a response follows another one or a conversation, not both")
        return self

    @property
    def conversation_id(self) -> str | None:
        named = self.conversation
        return named.id if isinstance(named, ConversationId) else named

    @property
    def effort(self) -> Effort | None:
        return None if self.reasoning is None else self.reasoning.effort

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def shows_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())


def require_possible(request: CreateResponse) -> None:
    """Raises Unsupported, naming the field and why."""
    for name, why in UNSUPPORTED.items():
        if getattr(request, name) is not None:
            raise unsupported(name, why)
    require_includable(request.include)
    if request.truncation == "auto":
        raise unsupported("truncation", "a context is never shortened behind the client's back")
    if request.service_tier not in (None, "auto", "default"):
        raise unsupported("service_tier", "there is one tier, `default`")
    reasoning = request.reasoning or Reasoning()
    if reasoning.summary is not None or reasoning.generate_summary is not None:
        raise unsupported(
            "reasoning.summary", "nothing is summed up; reasoning items have the whole text"
        )
    if request.text is not None and request.text.verbosity not in (None, "medium"):
        raise unsupported("text.verbosity", "ask for it in the instructions")
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        raise unsupported("stream_options.include_obfuscation", "events are sent as they are")
    if request.conversation is not None and not request.is_stored:
        raise unsupported("store", "what is said in a conversation is kept")
    if request.background and request.stream:
        raise unsupported("stream", "a background response is fetched when it is whole")
    if request.background and not request.is_stored:
        raise unsupported("store", "a background response that is not kept could not be fetched")


def require_includable(include: list[str] | None) -> None:
    """Raises Unsupported."""
    for place, name in enumerate(include or ()):
        if name == "reasoning.encrypted_content":
            raise unsupported(f"include[{place}]", "reasoning is given as it is, and not encrypted")
        if name != LOGPROBS:
            raise unsupported(f"include[{place}]", f"no item here has {name[:80]!r}")


def unsupported(param: str, why: str) -> Unsupported:
    return Unsupported(
        f"`{param}` cannot be served as it is asked: {why}. {NOTHING_DONE}", param=param
    )


def specs_of(request: CreateResponse) -> list[ToolSpec]:
    """The functions that the model may call. Raises Unsupported, BadRequest."""
    specs = []
    for place, tool in enumerate(request.tools or ()):
        kind = tool.get("type")
        if kind != "function":
            raise unsupported(
                f"tools[{place}]",
                f"tools of type {str(kind)[:80]!r} run at OpenAI; declare a function",
            )
        try:
            function = Function.model_validate(tool)
        except ValidationError as error:
            wrong = error.errors()[0]
            place_in = ".".join(map(str, wrong["loc"]))
            raise BadRequest(
                f"`tools[{place}].{place_in}`: {wrong['msg']}. {NOTHING_DONE}",
                param=f"tools[{place}].{place_in}",
            ) from None
        specs.append(
            ToolSpec(
                name=function.name,
                description=function.description or "",
                parameters=function.parameters or {"type": "object", "properties": {}},
            )
        )
    return specs


def options_of(request: CreateResponse, *, answer_tokens: int) -> dict[str, Any]:
    """Fields of TurnRequest for what the request asks. Raises Unsupported, BadRequest.

    answer_tokens: at most, and as many as there is room for, if the request does not say
    """
    has_limit = request.max_output_tokens is not None
    options: dict[str, Any] = {
        "max_tokens": request.max_output_tokens if has_limit else answer_tokens,
        "fit": None if has_limit else True,
        "temperature": TEMPERATURE if request.temperature is None else request.temperature,
        "top_p": request.top_p,
        "parallel_tool_calls": request.parallel_tool_calls,
        "tool_choice": _tool_choice(request.tool_choice),
        "json_schema": _schema(request.text),
        "effort": request.effort,
        "strict_calls": any(tool.get("strict") for tool in request.tools or ()) or None,
        **request.torpor.model_dump(exclude_none=True),
        "top_logprobs": max(1, request.top_logprobs or 0) if request.shows_logprobs else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _tool_choice(choice: str | Mapping[str, Any] | None) -> str | NamedTool | None:
    match choice:
        case None | "auto" | "none" | "required":
            return choice
        case {"type": "function", "name": str(name), **rest} if not rest:
            return NamedTool(name=name)
        case {"type": str(kind)}:
            raise unsupported("tool_choice", f"a choice of type {kind[:80]!r} is none here")
    raise BadRequest(
        f"`tool_choice` is auto, none, required or a function. {NOTHING_DONE}", param="tool_choice"
    )


def _schema(text: Text | None) -> dict[str, Any] | None:
    given = None if text is None else text.format
    kind = "text" if given is None else given.get("type")
    if given is None or (kind == "text" and given.keys() == {"type"}):
        return None
    if kind == "json_object" and given.keys() == {"type"}:
        return {"type": "object"}
    schema = given.get("schema")
    unknown = given.keys() - {"type", "name", "schema", "strict", "description"}
    if kind == "json_schema" and isinstance(schema, dict) and not unknown:
        return schema
    raise BadRequest(
        "`text.format` is text, json_object, or json_schema with `name` and `schema`. "
        f"{NOTHING_DONE}",
        param="text.format",
    )
