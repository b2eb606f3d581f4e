"""Sessions, their snapshots and their forks."""

from __future__ import annotations

from pydantic import Field, model_validator

from agent_runtime.wire.base import Wire
from agent_runtime.wire.declared_tools import DeclaredTools
from agent_runtime.wire.lists import Named
from agent_runtime.wire.messages import HistoryPolicy, OptionValue
from agent_runtime.wire.turns import RunningTurn, SamplingDefaults


class CreateSession(Wire, strict=True):
    system: str | None = None
    tools: DeclaredTools = []
    labels: Named[str] = {}
    sampling: SamplingDefaults = SamplingDefaults()
    template: Named[OptionValue] = {}
    """Options of the model's chat template, as `enable_thinking`, for turns that do not give them
    themselves."""
    history: HistoryPolicy = "append"
    """What a turn does whose template would show earlier turns differently: `append` leaves them as
    they are, `template` renders them anew."""
    stateless: bool | None = None
    """Whether the runtime's backend answers it, which keeps no state; None: if there is nothing
    else in this runtime."""


class LabelsRequest(Wire, strict=True):
    labels: Named[str]
    """All that the session is to have."""


class SessionView(Wire):
    """A session as the API shows it. Token counts are of its head.

    residency: the nearest place that has its head's bytes: `device`, as far as this runtime knows,
               else what `Whereabouts.in_store` says
    """

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


class SnapshotView(Wire):
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


class ForkRequest(Wire, strict=True):
    snapshot: str | None = None
    """Where to fork: any snapshot in the session's history; its head if None."""
    tokens: int | None = Field(default=None, ge=0)
    """Instead: after so many tokens of the session's history; 0 is before the first turn."""
    labels: Named[str] = {}
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
