"""A turn: what is asked for, and how it ended."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from agent_runtime.wire.base import Wire
from agent_runtime.wire.constraints import Constraints
from agent_runtime.wire.declared_tools import DeclaredTools
from agent_runtime.wire.lists import Named, Several
from agent_runtime.wire.messages import Effort, HistoryPolicy, Message, OptionValue
from state_store.levels import LEVEL
from tools.calls import ToolCall

Durability = Annotated[str, Field(pattern=LEVEL)]

ANSWER_TOKENS = 4096
"""Unless the runtime is set up otherwise."""

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""As SGLang takes them."""


class SamplingDefaults(Wire, strict=True):
    """Of a session's turns, unless they say otherwise; see TurnRequest, which decides the rest."""

    max_tokens: int | None = Field(default=None, ge=1, le=65536)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Seed | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, max_length=16)


class TurnRequest(Constraints, strict=True):
    """`temperature` 0 is greedy. `top_logprobs` > 0 returns that many alternatives per token."""

    messages: Several[Message] = []
    proceed: bool = False
    """Generate right where the history ends, with no new message: after a fork at the end of a
    prompt, or to go on with an answer that was cut off. The latter cannot be held to anything."""
    max_tokens: int = Field(default=ANSWER_TOKENS, ge=1, le=65536)
    """If neither the turn nor its session says: as many as the runtime's `answer_tokens`, or as the
    context has room for."""
    fit: bool = False
    """Generate at most what the context has room for, if that is less than `max_tokens`, instead of
    refusing the turn."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: Seed | None = None
    """Of what is drawn, on engines that draw by it; on others the result's `problems` say so."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=16)
    """Texts at which the answer ends; it is given without them."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    marks: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=16)
    """Numbers of messages behind which a boundary is kept, besides those that always are, so that
    others that begin alike go on from there; 0 is before the first, behind system text and tools.
    """
    template: Named[OptionValue] = {}
    """Options of the model's chat template for this turn's prompt, as `enable_thinking`; one that
    it does not know is refused. The session's others stay as they are."""
    effort: Effort | None = None
    """How much the model is to think, by options that its chat template has for that; `none`: not
    at all. A level that the template does not know is refused, see `messages/efforts.py`."""
    thinking_tokens: int | None = Field(default=None, ge=1, le=65536)
    """Most tokens that the model thinks before it answers: after those its thinking is ended for
    it. They are a part of `max_tokens`."""
    durability: Durability = "memory"
    """`memory`, `fsync` or `replicated:n`; the result says which was reached."""
    workspace: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Version of the workspace that goes with the turn: its tools' files as they are when it
    begins. Those of the head if none is given."""
    expected_head: str | None = None
    """If given, the turn is refused unless this snapshot is the session's head; "" if it is to be
    empty."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if bool(self.messages) is self.proceed:
            raise ValueError("a turn takes messages, or none and proceed=true")
        if self.proceed and (self.template or self.effort):
            raise ValueError("what is gone on with has its prompt already: no template options")
        if self.thinking_tokens is not None and self.top_logprobs:
            raise ValueError("thinking that is ended for the model has no log-probabilities")
        return self


class ConversationRequest(TurnRequest):
    """A whole conversation, of which any part may be known; it may begin with a `system` message.

    tools: as declared to the model; another set of tools is another conversation
    stateless: as in CreateSession
    labels: of a session or fork that is made for it
    history: as in CreateSession; with another policy it is another conversation
    """

    tools: DeclaredTools = []
    history: HistoryPolicy = "append"
    stateless: bool | None = None
    labels: Named[str] = {}


class Usage(Wire):
    """Prompt tokens = reused + computed; `recomputed_tokens` were known before this turn.

    boundary_tokens:  how far the parent snapshot's pages and state reach
    recompute_reason: why anything known was computed again, None if nothing was
    rewritten_tokens: of earlier turns, that the template has rendered anew, in a session with
                      `history="template"`
    reasoning_tokens: of the completion, with the tags around the thinking; None where a backend
                      does not say
    """

    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int
    recomputed_tokens: int
    boundary_tokens: int
    recompute_reason: str | None
    rewritten_tokens: int = 0
    reasoning_tokens: int | None = 0


class Timing(Wire):
    """Seconds, from the moment the runtime has the request; `queued_s` of them before the engine
    had a slot for the turn, `ready_s` of work until the prompt could be sent: lease, history,
    delta, what is staged."""

    ttft_s: float
    generate_s: float
    commit_s: float
    queued_s: float = 0.0
    ready_s: float = 0.0


class TopLogprob(Wire):
    token: int
    logprob: float


class TokenLogprob(Wire):
    """Natural-log probability of a generated token, and of the most likely ones there."""

    token: int
    logprob: float
    top: list[TopLogprob]


class TurnResult(Wire):
    """How a turn ended. `snapshot` is None when it could not be committed."""

    session_id: str
    parent: str | None
    engine: str | None = None
    """Id of the engine that ended it."""
    engine_because: str | None = None
    """Why that one was chosen."""
    failed_over: str | None = None
    """Which engines failed in this turn, when and why; the named one went on from there."""
    text: str
    reasoning: str = ""
    """What the model thought before it answered."""
    tool_calls: list[ToolCall]
    problems: list[str]
    finish_reason: str
    stopped_by: str | None = None
    """The text of `stop` that ended it; `token_ids`, and the history, have it."""
    token_ids: list[int]
    usage: Usage
    mtp_accept_length: float | None
    logprobs: list[TokenLogprob] = []
    snapshot: str | None = None
    boundary: int = 0
    durable: str | None = None
    """Durability confirmed for this turn: None if it could not be committed at all."""
    not_durable_because: str | None = None
    """Why it is not what was asked for."""
    bytes_written: int = 0
    """Bytes of the objects that this snapshot holds and its parent does not. Ones that were stored
    already are counted too; states that the engine wrote in between, and that expire, are not."""
    kept: bool = False
    """The store is gone: the turn is in the runtime's memory, and is committed when it is back."""
    caught_up: int = 0
    """Earlier turns that were kept, and have been committed since the last result."""
    timing: Timing | None = None
    replayed: bool = False
    """Whether it was given before, to the first request with this idempotency key."""


class RunningTurn(Wire):
    """A turn that has begun and is not committed.

    state: `running`, or `interrupted` if its runtime (`owner`) died: it can be resumed
    since: when it began, in seconds since 1970
    """

    id: str
    state: str
    since: float
    owner: str
    messages: list[Message]


class Cancellation(Wire):
    """turn: that was running or interrupted, None if there was none; head: of the session now;
    committed: the turn was too far to be cancelled"""

    session_id: str
    turn: str | None
    head: str | None
    committed: bool = False
