"""What travels between clients and the runtime, validated at the edge.

What comes from a client is read strictly: no text becomes a number, and no number a truth value.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent_runtime.declared_tools import DeclaredTools
from agent_runtime.lists import Several
from agent_runtime.messages.chat import Message
from agent_runtime.messages.efforts import Effort
from agent_runtime.messages.template import OptionValue
from agent_runtime.turns.constraints import Constraints
from state_store.levels import LEVEL
from tools.calls import ToolCall
from tools.effects import Entry

Durability = Annotated[str, Field(pattern=LEVEL)]
ANSWER_TOKENS = 4096
"""Unless the runtime is set up otherwise."""
HistoryPolicy = Literal["append", "template"]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""As SGLang takes them."""


class SamplingDefaults(_Wire, strict=True):
    """Of a session's turns, unless they say otherwise; see TurnRequest, which decides the rest."""

    max_tokens: int | None = Field(default=None, ge=1, le=65536)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Seed | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, max_length=16)


class CreateSession(_Wire, strict=True):
    system: str | None = None
    tools: DeclaredTools = []
    labels: dict[str, str] = {}
    sampling: SamplingDefaults = SamplingDefaults()
    template: dict[str, OptionValue] = {}
    """Options of the model's chat template, as `enable_thinking`, for turns that do not give them
    themselves."""
    history: HistoryPolicy = "append"
    """What a turn does whose template would show earlier turns differently: `append` leaves them as
    they are, `template` renders them anew."""
    stateless: bool | None = None
    """Whether the runtime's backend answers it, which keeps no state; None: if there is nothing
    else in this runtime."""


class LabelsRequest(_Wire, strict=True):
    labels: dict[str, str]
    """All that the session is to have."""


class TurnRequest(_Wire, Constraints, strict=True):
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
    template: dict[str, OptionValue] = {}
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
    labels: dict[str, str] = {}


class Usage(_Wire):
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


class Timing(_Wire):
    """Seconds, from the moment the runtime has the request; `queued_s` of them before the engine
    had a slot for the turn, `ready_s` of work until the prompt could be sent: lease, history,
    delta, what is staged."""

    ttft_s: float
    generate_s: float
    commit_s: float
    queued_s: float = 0.0
    ready_s: float = 0.0


class TopLogprob(_Wire):
    token: int
    logprob: float


class TokenLogprob(_Wire):
    """Natural-log probability of a generated token, and of the most likely ones there."""

    token: int
    logprob: float
    top: list[TopLogprob]


class TurnResult(_Wire):
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


class RunningTurn(_Wire):
    """A turn that has begun and is not committed.

    state: `running`, or `interrupted` if its runtime (`owner`) died: it can be resumed
    since: when it began, in seconds since 1970
    """

    id: str
    state: str
    since: float
    owner: str
    messages: list[Message]


class Cancellation(_Wire):
    """turn: that was running or interrupted, None if there was none; head: of the session now;
    committed: the turn was too far to be cancelled"""

    session_id: str
    turn: str | None
    head: str | None
    committed: bool = False


class SessionView(_Wire):
    """A session as the API shows it. Token counts are of its head."""

    id: str
    head: str | None
    tokens: int
    boundary: int
    residency: str
    labels: dict[str, str]
    forked_from: str | None
    created_at: float
    tools: list[str] = []
    """Names of the tools that its model knows."""
    history: HistoryPolicy = "append"
    kept_turns: int = 0
    """Turns in this runtime's memory that were answered while the store was gone."""
    turn: RunningTurn | None = None
    """The turn that is running, or that was interrupted."""


class Whereabouts(_Wire):
    """Where the state of a session's head is, as the engine and the store say it now.

    residency:     where the store has it, whatever an engine holds: `stored`, `archived`, `partly`,
                   `lost`, `tokens`; `empty`, or `none` without state
    engine:        whose device and host memory was looked at, None if no engine fits
    device_tokens, staged_tokens, stored_tokens:
                   how far the session could be picked up from the device, the engine's host memory,
                   and the store or the archive alone
    held_for:      seconds that the device still keeps it, None if it may evict it
    prefilled_tokens, loaded_bytes, offloaded_bytes, failed_loads:
                   what the engine has done for the session since it started: prompt tokens that it
                   computed, bytes from the store to the device and back, loads that failed
    reason:        why the engine could not be asked
    """

    session_id: str
    head: str | None
    residency: str = "empty"
    tokens: int = 0
    boundary: int = 0
    engine: str | None = None
    device_tokens: int = 0
    staged_tokens: int = 0
    stored_tokens: int = 0
    held_for: float | None = None
    prefilled_tokens: int = 0
    loaded_bytes: int = 0
    offloaded_bytes: int = 0
    failed_loads: int = 0
    reason: str | None = None


class EngineSlots(_Wire):
    """What this runtime's scheduler says of one engine, counted since either started.

    waiting:        turns that wait, by tenant
    resident, away: idle sessions on its device; ones that left it and are expected back
    turns:          that ended with a result; `reprefilled`: of those, the ones that computed again
                    what their session's head covered
    starts:         turns by where their session's state was believed to be: `new`, `device`,
                    `staged` (fetched before), `stored`
    token_hit_rate: share of the histories' tokens that were on the device
    refused:        answers with 429
    """

    engine: str
    policy: str
    slots: int
    running: int
    waiting: dict[str, int]
    resident: int
    away: int
    used_states: int
    state_slots: int
    used_tokens: int
    kv_slots: int
    turns: int
    reprefilled: int
    starts: dict[str, int]
    token_hit_rate: float
    suspended: int
    prefetched: int
    refused: int


class SnapshotView(_Wire):
    """One turn's commit.

    prompt_tokens: where its generation began; None for the end of a fork inside a turn
    workspace:     version of the workspace that goes with it, None if there is none
    boundaries:    token counts at which this turn keeps a state: forks there recompute nothing
    """

    id: str
    parent: str | None
    tokens: int
    boundary: int
    prompt_tokens: int | None
    boundaries: list[int]
    created_at: float
    workspace: str | None = None
    labels: dict[str, str] = {}


class SuspendRequest(_Wire, strict=True):
    durability: Durability = "fsync"
    """`memory`, `fsync` or `replicated:n`: what must be confirmed before memory is given up."""
    expected_head: str | None = None
    """If given, nothing is done unless this is the session's head; "" if it is to be empty."""


class Suspended(_Wire):
    """`bytes_written`: as in TurnResult, of all turns since the last suspend or resume."""

    session_id: str
    head: str | None
    durable: str
    bytes_written: int
    seconds: float


class PersistRequest(_Wire, strict=True):
    durability: Durability = "fsync"
    """`memory`, `fsync` or `replicated:n`: what must be confirmed before the answer."""


class Persisted(_Wire):
    """reason: why not all that the device holds of the head is stored, None if it is"""

    session_id: str
    head: str | None
    durable: str
    reason: str | None
    seconds: float


class HoldRequest(_Wire, strict=True):
    seconds: float = Field(default=600.0, gt=0, le=86400)


class Held(_Wire):
    """held_tokens: of the head's, that the engine keeps on its device for `seconds`"""

    session_id: str
    head: str | None
    engine: str
    held_tokens: int
    seconds: float


class Released(_Wire):
    """was_held: whether there was a hold, on the engine that was asked"""

    session_id: str
    engine: str
    was_held: bool


class Dropped(_Wire):
    """freed_tokens: whose pages and states were freed; others go on from the rest, or it is not
    stored"""

    session_id: str
    head: str | None
    engine: str
    freed_tokens: int


class ResumeRequest(_Wire, strict=True):
    strict: bool = False
    """Refuse (NothingReused) instead of leaving everything to be recomputed."""


class Resumed(_Wire):
    session_id: str
    head: str | None
    tokens: int
    restorable_tokens: int
    bytes_read: int
    reason: str | None
    seconds: float


class ForkRequest(_Wire, strict=True):
    snapshot: str | None = None
    """Where to fork: any snapshot in the session's history; its head if None."""
    tokens: int | None = Field(default=None, ge=0)
    """Instead: after so many tokens of the session's history; 0 is before the first turn."""
    labels: dict[str, str] = {}
    expected_head: str | None = None
    """If given, nothing is made unless this is the session's head; "" if it is to be empty."""

    @model_validator(mode="after")
    def _names_one_place(self) -> ForkRequest:
        if self.snapshot is not None and self.tokens is not None:
            raise ValueError("a fork is at a snapshot or at a number of tokens, not both")
        return self


class Forked(SessionView):
    """`recompute_tokens`: of the fork's history, those past the latest boundary: its first turn
    computes them again."""

    recompute_tokens: int


class FoundEntry(_Wire):
    """Of the ledger of effects; None if there is none."""

    entry: Entry | None


class Entries(_Wire):
    entries: list[Entry]


class Problem(_Wire):
    """Error body, after RFC 9457. param: the part of the request that it is about, if it is one."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    param: str | None = None
