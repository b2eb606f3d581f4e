"""What a turn appends to a session's history before the model answers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent_runtime.errors import BadRequest, ContextFull, NoMessages
from agent_runtime.messages.aside import aside
from agent_runtime.messages.blocks import calls_at_end
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.efforts import options_with
from agent_runtime.messages.histories import History
from agent_runtime.messages.order import require_order
from agent_runtime.messages.rewriting import rewriting_of
from agent_runtime.messages.shown import Showing
from agent_runtime.messages.transcripts import Transcript, Transcripts, meta_of
from agent_runtime.turns.outage import Standing
from agent_runtime.wire.messages import HistoryPolicy
from agent_runtime.wire.turns import SamplingDefaults, TurnRequest
from engine.pool import Engine
from state_store.records import Session
from state_store.store import StateStore
from tools.define import ToolSpec


def with_defaults(request: TurnRequest, session: Session, *, answer_tokens: int) -> TurnRequest:
    """What the request does not say, as the session was created to have it.

    answer_tokens: at most, and as many as there is room for, if the session does not say either
    """
    defaults = SamplingDefaults.model_validate(session.body.meta.get("sampling", {}))
    said = request.model_fields_set
    given = defaults.model_dump(exclude_none=True, exclude=set(said))
    if "max_tokens" not in said | given.keys():
        given["max_tokens"] = answer_tokens
        given["fit"] = request.fit if "fit" in said else True
    return request.model_copy(update=given)


def history_of(session: Session) -> HistoryPolicy:
    return "template" if follows_template(session) else "append"


def follows_template(session: Session) -> bool:
    """Whether its template may render its history anew."""
    return bool(session.body.meta.get("history") == "template")


@dataclass(frozen=True)
class Asked:
    """before: the session as the prompt builds on it; delta: ids of the prompt after its history;
    request: with as many tokens as there is room for"""

    before: Standing
    delta: list[int]
    request: TurnRequest
    _messages: _Messages | None = None

    def on(self, engine: Engine) -> Asked:
        """The same on another engine."""
        return replace(self, before=replace(self.before, engine=engine))

    def answered(self, ids: Sequence[int]) -> Answered:
        """ids: that the model has answered with"""
        if self._messages is None:
            return Answered({}, None)
        return self._messages.answered(self.request, ids)


@dataclass(frozen=True)
class Answered:
    """meta: what the turn's snapshot is to keep of the messages; transcript: of that snapshot"""

    meta: dict[str, Any]
    transcript: Transcript | None


class Prompting:
    """Renders what turns ask; rewrites histories of sessions that follow their template."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._transcripts = Transcripts(store)

    async def ask(self, chat: ChatFormat, before: Standing, request: TurnRequest) -> Asked:
        """before: the session as of its head

        Raises BadRequest, TemplateRewrites, UnknownOption, Unsupported, NoMessages; ContextFull if
        the engine has no room for the prompt and the answer.
        """
        request = _with_options(chat, before.session, request)
        _require_order(chat, before.session, before.history, request)
        if follows_template(before.session):
            asked = await self._as_shown(chat, before, request)
        else:
            delta = await aside(
                request.messages, _delta, chat, before.session, before.history, request
            )
            asked = Asked(before, delta, request)
        fitting = _with_room(asked.before.history, asked.delta, request, before.engine)
        return replace(asked, request=fitting)

    def hold(self, snapshot_id: str, answered: Answered) -> None:
        """The answer has been committed as that snapshot."""
        if answered.transcript is not None:
            self._transcripts.hold(snapshot_id, answered.transcript)

    async def _as_shown(self, chat: ChatFormat, before: Standing, request: TurnRequest) -> Asked:
        session, history = before.session, before.history
        tools = _tools(session)
        system = session.body.meta["system"]
        showing = Showing(chat, system=system, tools=tools, options=request.template)
        if request.proceed:
            _require_unfinished(chat, session, history, request)
            with contextlib.suppress(NoMessages):  # inside of a message: the next turn says so
                transcript = await self._transcripts.of(session, history, chat, showing)
                going_on = _Messages(chat, showing, transcript, transcript.text)
                return Asked(before, [], request, going_on)
            return Asked(before, [], request)
        transcript = await self._transcripts.of(session, history, chat, showing)
        if not history.tokens:
            delta = await aside(request.messages, _delta, chat, session, history, request)
            opening = _Messages(chat, showing, transcript, chat.marked(delta))
            return Asked(before, delta, request, opening)
        shown = await aside(
            (*transcript.said, *request.messages),
            showing.continued,
            transcript.said,
            request.messages,
            history.tokens,
            transcript.text,
        )
        if shown.kept < len(history.tokens):
            rewriting = await rewriting_of(
                self._store,
                session,
                history,
                fingerprint=before.engine.record.fingerprint,
                kept=shown.kept,
                past=shown.past,
                unsaved=transcript.unsaved,
            )
            transcript = replace(transcript, unsaved=())
            page_size = before.engine.record.page_size
            kept = replace(
                history,
                tokens=history.tokens[: shown.kept],
                hashes=history.hashes[: max(0, shown.kept - 1) // page_size],
                boundary=rewriting.draft.boundary,
            )
            before = replace(before, history=kept, rewriting=rewriting).after(shown.past)
        continued = _Messages(chat, showing, transcript, shown.text)
        return Asked(before, shown.new, request, continued)


@dataclass(frozen=True)
class _Messages:
    """Of a turn in a session that follows its template. text: of the prompt, all of it"""

    chat: ChatFormat
    showing: Showing
    before: Transcript
    text: str

    def __post_init__(self) -> None:
        self.showing.answer_in(self.text)  # raises now what it would after the answer

    def answered(self, request: TurnRequest, ids: Sequence[int]) -> Answered:
        text = self.text + self.chat.marked(ids)
        answer = self.showing.answer_in(text)
        said = self.before.said
        if request.proceed:
            said = said[:-1] if self.before.answered else said
            meta = meta_of([], answer, goes_on=True)
        else:
            meta = meta_of([*self.before.unsaved, *request.messages], answer)
            said = (*said, *request.messages)
        return Answered(meta, Transcript((*said, answer), text))


def _with_options(chat: ChatFormat, session: Session, request: TurnRequest) -> TurnRequest:
    """With all options that the template is given: the session's, those of the effort, and the
    request's own."""
    if request.proceed:
        return request
    asked = options_with(request.effort, chat.efforts, request.template)
    template = session.body.meta.get("template", {}) | asked
    return request.model_copy(update={"template": template})


def _tools(session: Session) -> list[ToolSpec]:
    return [ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]]


def _require_order(
    chat: ChatFormat, session: Session, history: History, request: TurnRequest
) -> None:
    waiting: int | None = 0
    if history.tokens and request.messages and request.messages[0].role == "tool":
        waiting = calls_at_end(chat, history.tokens, tools=_tools(session))
    require_order(request.messages, waiting=waiting)


def _delta(chat: ChatFormat, session: Session, history: History, request: TurnRequest) -> list[int]:
    if request.proceed:
        _require_unfinished(chat, session, history, request)
        return []
    if not history.tokens:
        return chat.opening(
            request.messages,
            system=session.body.meta["system"],
            tools=_tools(session),
            options=request.template,
        )
    ended = history.tokens[-1] == chat.eos_id
    return chat.delta(request.messages, ended=ended, options=request.template)


def _require_unfinished(
    chat: ChatFormat, session: Session, history: History, request: TurnRequest
) -> None:
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
