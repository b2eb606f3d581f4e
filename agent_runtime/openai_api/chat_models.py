"""The request of `/v1/chat/completions`: what is read, and what is refused.

Fields as OpenAI documents them (openai-python 2.8, `CompletionCreateParams`), and as vLLM, SGLang
and DeepSeek name a model's reasoning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent_runtime.errors import Unsupported
from agent_runtime.wire.lists import FEW, FewFields, Named, Several
from agent_runtime.wire.messages import Effort, HistoryPolicy, OptionValue
from agent_runtime.wire.turns import Durability


class _Wire(FewFields):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CalledFunction(_Wire):
    name: str
    arguments: str
    """JSON text."""


class MessageCall(_Wire):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Wire):
    """content: a text, or parts of type `text`; name: of an assistant only, as frameworks note it
    in its messages, and not told to the model. What must be null is what answers of OpenAI's have
    and ours do not: clients send messages back as they came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Several[dict[str, Any]] | None = None
    tool_calls: Several[MessageCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class Function(_Wire):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Wire):
    type: Literal["function"]
    function: Function


class NamedFunction(_Wire):
    name: str


class ToolChoice(_Wire):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(FewFields):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Wire):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Ours(_Wire):
    """What a request can ask of Torpor and of nobody else; see TurnRequest and CreateSession."""

    durability: Durability | None = None
    regex: str | None = None
    ebnf: str | None = None
    history: HistoryPolicy | None = None
    template: Named[OptionValue] | None = None
    thinking_tokens: int | None = Field(default=None, ge=1, le=65536)


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
    FEW,
]
"""As OpenAI takes it, which is more than labels may be."""

_Stop = Annotated[str, Field(min_length=1)]


class ChatRequest(BaseModel):
    """Fields that have no effect here are in UNSUPPORTED, and are refused by `require_supported`
    unless they ask for what is done anyway."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    model: str
    messages: Several[ChatMessage] = Field(min_length=1)
    tools: Several[FunctionTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1, le=65536)
    max_tokens: int | None = Field(default=None, ge=1, le=65536)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 129)
    """Below the most there is, for those of further answers."""
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    reasoning_effort: Effort | None = None
    chat_template_kwargs: Named[OptionValue] | None = None
    """As vLLM and SGLang call `torpor.template`."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    torpor: Ours = Ours()


class Refused(NamedTuple):
    """harmless: values that ask for what is done anyway; why: nothing else can be"""

    harmless: tuple[Any, ...]
    why: str


UNSUPPORTED = {
    "audio": Refused((), "the models say text"),
    "frequency_penalty": Refused((0,), "engines sample without penalties"),
    "function_call": Refused(("auto", "none"), "send tool_choice"),
    "functions": Refused(([],), "send tools"),
    "logit_bias": Refused(({},), "engines sample without biases; use tools or response_format"),
    "modalities": Refused((["text"],), "the models say text"),
    "prediction": Refused((), "there is no decoding along a given text"),
    "presence_penalty": Refused((0,), "engines sample without penalties"),
    "service_tier": Refused(("auto", "default"), "there is one tier"),
    "store": Refused((False,), "chat completions are not listed again; use /v1/responses"),
    "verbosity": Refused(("medium",), "how much a model says is not set by requests"),
    "web_search_options": Refused((), "models search nothing; give them a tool"),
}


def require_supported(request: ChatRequest) -> None:
    """Raises Unsupported for a field that would have no effect."""
    for name, value in (request.model_extra or {}).items():
        refused = UNSUPPORTED.get(name)
        if refused is None:
            raise Unsupported(
                f"there is no parameter {name[:80]!r}. Nothing was generated.", param=name[:80]
            )
        if value is not None and value not in refused.harmless:
            raise Unsupported(
                f"{name} is not supported: {refused.why}. Leave it out. Nothing was generated.",
                param=name,
            )
