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
) -> tuple[list[int], TurnRequest]:
    """Ids that continue `history` with what is asked, and the request with as many tokens as there
    is room for. Raises BadRequest, TemplateRewrites; ContextFull if the engine has no room."""
    delta = _delta(chat, session, history, request)
    return delta, _with_room(history, delta, request, engine)


def _delta(chat: ChatFormat, session: Session, history: History, request: TurnRequest) -> list[int]:
    if request.proceed:
        if not history.tokens or history.tokens[-1] == chat.eos_id:
            raise BadRequest(
                f"{session.id} does not end in a prompt or an unfinished answer, so there is "
                "nothing to proceed with; the session is unchanged. Send a message instead."
            )
        if not request.is_free and not chat.opens_answer(history.tokens):
            raise BadRequest(
                f"{session.id} ends in the middle of an answer, and what is gone on with cannot be "
                "held to anything: its beginning is not. The session is unchanged."
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


def _with_room(
    history: History, delta: list[int], request: TurnRequest, engine: Engine
) -> TurnRequest:
    prompt_tokens = len(history.tokens) + len(delta)
    limit = engine.record.context_length
    if not limit or prompt_tokens + request.max_tokens <= limit:
        return request
    if request.fit and prompt_tokens < limit:
        return request.model_copy(update={"max_tokens": limit - prompt_tokens})
    wanted = "at least one" if request.fit else str(request.max_tokens)
    raise ContextFull(
        f"{prompt_tokens} prompt tokens + {wanted} to generate exceed the engine's context of "
        f"{limit}; the session is unchanged."
    )
