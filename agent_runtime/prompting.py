"""What a turn appends to a session's history before the model answers."""

from __future__ import annotations

from agent_runtime.chat import ChatFormat
from agent_runtime.errors import BadRequest, ContextFull
from agent_runtime.histories import History
from agent_runtime.models import SamplingDefaults, TurnRequest
from engine.pool import Engine
from state_store.records import Session
from tools.define import ToolSpec


def with_defaults(request: TurnRequest, session: Session) -> TurnRequest:
    """What the request does not say, as the session was created to have it."""
    defaults = SamplingDefaults.model_validate(session.body.meta.get("sampling", {}))
    said = request.model_fields_set
    given = defaults.model_dump(exclude_none=True, exclude=set(said))
    return request.model_copy(update=given)


def prompt_delta(
    chat: ChatFormat, session: Session, history: History, request: TurnRequest, engine: Engine
) -> list[int]:
    """Ids that continue `history` with what is asked. Raises BadRequest, TemplateRewrites;
    ContextFull if the engine has no room for them and the answer."""
    delta = _delta(chat, session, history, request)
    _require_room(history, delta, request, engine)
    return delta


def _delta(chat: ChatFormat, session: Session, history: History, request: TurnRequest) -> list[int]:
    if request.proceed:
        if not history.tokens or history.tokens[-1] == chat.eos_id:
            raise BadRequest(
                f"{session.id} does not end in a prompt or an unfinished answer, so there is "
                "nothing to proceed with; the session is unchanged. Send a message instead."
            )
        return []
    if not history.tokens:
        return chat.opening(
            request.messages,
            system=session.body.meta["system"],
            tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
        )
    ended = history.tokens[-1] == chat.eos_id
    return chat.delta(request.messages, ended=ended)


def _require_room(history: History, delta: list[int], request: TurnRequest, engine: Engine) -> None:
    prompt_tokens = len(history.tokens) + len(delta)
    limit = engine.record.context_length
    if limit and prompt_tokens + request.max_tokens > limit:
        raise ContextFull(
            f"{prompt_tokens} prompt tokens + {request.max_tokens} to generate exceed the "
            f"engine's context of {limit}; the session is unchanged."
        )
