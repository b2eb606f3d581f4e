"""Making a response: behind the one that it follows, or from the beginning.

nothing before      the items are a whole conversation: what is known of it is gone on from
behind a response   new items behind its snapshot, in its session or in a fork of it
…and it asks for other instructions, tools or another model
                    all items anew, as a whole conversation: the response says why
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_runtime.errors import BadRequest, NotFound, PreviousResponseNotFound
from agent_runtime.frameworks import Said
from agent_runtime.http.metrics import Metrics
from agent_runtime.http.streaming import counted_in, counted_problem
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.efforts import options_for
from agent_runtime.openai_api.messages import Ids, asked_of, conversation
from agent_runtime.openai_api.responses import shown
from agent_runtime.openai_api.responses.events import Telling, Told
from agent_runtime.openai_api.responses.items import Item, items_of, require_distinct, said_in
from agent_runtime.openai_api.responses.logprobs import with_logprobs
from agent_runtime.openai_api.responses.records import (
    ResponseRecord,
    ResponseRecords,
    digest_of,
)
from agent_runtime.openai_api.responses.requests import (
    NOTHING_DONE,
    CreateResponse,
    options_of,
    require_possible,
    specs_of,
)
from agent_runtime.openai_api.served import Served
from agent_runtime.sessions.conversations import Conversations
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.prompting import history_of
from agent_runtime.turns.stateless import Stateless
from agent_runtime.wire.events import TurnEvent
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from state_store import errors as store_errors
from state_store.errors import StoreError
from state_store.records import Session
from state_store.store import StateStore
from tools.define import ToolSpec

logger = logging.getLogger(__name__)

Keep = Callable[[ResponseRecord, str | None], Awaitable[None]]
"""Told of a response, and of the snapshot that its own was committed on."""


@dataclass(frozen=True)
class Follows:
    """What comes before a response.

    record:   of the response that it follows, which is in `session`; None at the beginning
    pending:  items that were said since
    left:     all that is left of what came before, if some of it was deleted
    is_whole: whether `left` has all of it, since no response before was deleted
    """

    record: ResponseRecord | None = None
    session: Session | None = None
    pending: Sequence[Item] = ()
    left: Sequence[Item] | None = None
    is_whole: bool = True


@dataclass(frozen=True)
class Asked:
    """A request, read. items: new ones; options: fields of TurnRequest"""

    request: CreateResponse
    ids: Ids
    items: list[Item]
    tools: list[ToolSpec]
    options: dict[str, Any]
    stateless: bool


@dataclass(frozen=True)
class _Way:
    """How it is answered.

    instructions: in force
    anew:         why all is rendered anew, None if it is not
    past:         items that are, then
    """

    instructions: str | None
    anew: str | None = None
    past: list[Item] = field(default_factory=list)


class Creation:
    """Makes responses."""

    def __init__(
        self,
        store: StateStore,
        conversations: Conversations,
        stateless: Stateless,
        records: ResponseRecords,
        served: Served,
        chat: ChatFormat | None,
        metrics: Metrics,
        settings: RuntimeSettings,
    ) -> None:
        self._store = store
        self._conversations = conversations
        self._stateless = stateless
        self._records = records
        self._served = served
        self._chat = chat
        self._metrics = metrics
        self._settings = settings

    async def behind(self, previous_id: str | None) -> Follows:
        """Raises PreviousResponseNotFound."""
        if previous_id is None:
            return Follows()
        try:
            return Follows(*await self._records.get(previous_id))
        except NotFound as error:
            raise PreviousResponseNotFound(
                f"{error} {NOTHING_DONE}", param="previous_response_id"
            ) from None

    async def read(self, request: CreateResponse, follows: Follows, ids: Ids) -> Asked:
        """Raises ModelNotFound, Unsupported, BadRequest, TextOnly, WrongMessage."""
        require_possible(request)
        stateless = self._served.is_stateless(request.model)
        if request.effort is not None and self._chat is not None and not stateless:
            options_for(request.effort, self._chat.efforts, param="reasoning.effort")
        given = items_of(request.input, ids, "input")
        require_distinct(given, await self._ids_before(request, follows))
        items = [*follows.pending, *given]
        if not items:
            raise BadRequest(f"there is no input to be answered. {NOTHING_DONE}", param="input")
        options = options_of(request, answer_tokens=self._settings.answer_tokens)
        return Asked(request, ids, items, specs_of(request), options, stateless)

    async def _ids_before(self, request: CreateResponse, follows: Follows) -> set[str]:
        """Ids of all items before the request's own; not looked for if it names none itself."""
        if isinstance(request.input, str) or not any(one.get("id") for one in request.input):
            return set()
        past = follows.left
        if past is None and follows.record is not None:
            past, _ = await self._records.history(follows.record)
        return {item["id"] for item in (*(past or ()), *follows.pending)}

    def begun(self, asked: Asked, *, instructions: str | None, created_at: int) -> shown.Shown:
        """The response before there is anything of it. instructions: in force"""
        return shown.in_progress(
            asked.request,
            asked.ids.of("resp_"),
            created_at=created_at,
            instructions=instructions,
        )

    async def events(
        self, asked: Asked, follows: Follows, *, key: str | None, keep: Keep, created_at: int
    ) -> AsyncGenerator[Told]:
        """The response's events; the last one has the whole response.

        key:  of idempotency; keep: told of the record before that, if there is to be one

        Before the first event, raises what `Conversations.run` raises and WrongMessage; later, if
        it is streamed, an error is the last event.
        """
        way = await self._way(asked, follows)
        begun = self.begun(asked, instructions=way.instructions, created_at=created_at)
        telling = Telling(asked.ids, asked.tools)
        has_begun = False
        try:
            turn = counted_in(self._metrics, self._turn(asked, follows, way, key))
            async with contextlib.aclosing(turn) as events:
                async for event in events:
                    if not has_begun:
                        has_begun = True
                        for told in telling.begun(begun):
                            yield told
                    if not isinstance(event, TurnResult):
                        for told in telling.told(event):
                            yield told
                        continue
                    for told in telling.rest(event):
                        yield told
                    response = self._completed(begun, asked, way, event, telling.output)
                    yield telling.ended(
                        await self._kept(response, asked, follows, way, event, keep)
                    )
        except Exception as error:
            if not has_begun or not asked.request.stream:
                raise
            problem = counted_problem(self._metrics, error)
            yield telling.ended(
                shown.failed(begun, status=problem.status, code=problem.code, detail=problem.detail)
            )

    def _completed(
        self, begun: shown.Shown, asked: Asked, way: _Way, result: TurnResult, output: list[Item]
    ) -> shown.Shown:
        chat = None if asked.stateless else self._chat
        if chat is not None and asked.request.shows_logprobs:
            top = asked.request.top_logprobs or 0
            output = with_logprobs(output, result, chat, top=top)
        return shown.completed(begun, result, output, rendered_anew=way.anew)

    async def _way(self, asked: Asked, follows: Follows) -> _Way:
        """Raises BadRequest if all would have to be rendered anew and some of it is gone."""
        instructions = asked.request.instructions or None
        record, session = follows.record, follows.session
        if record is None or session is None:
            return _Way(instructions)
        before = record.response["instructions"]
        why = await self._why_anew(asked, follows, record, session, instructions, before)
        if why is None:
            return _Way(before)
        past, is_whole = (
            (list(follows.left), follows.is_whole)
            if follows.left is not None
            else await self._records.history(record)
        )
        if not is_whole:
            raise BadRequest(
                f"{why}, so all would have to be rendered anew; and a response before {record.id} "
                f"was deleted. {NOTHING_DONE} Send the whole conversation as `input`.",
                param="conversation" if asked.request.conversation_id else "previous_response_id",
            )
        return _Way(instructions or before, why, past)

    async def _why_anew(
        self,
        asked: Asked,
        follows: Follows,
        record: ResponseRecord,
        session: Session,
        instructions: str | None,
        before: str | None,
    ) -> str | None:
        if follows.left is not None:
            return "an item of the conversation was deleted"
        if instructions not in (None, before):
            return f"the instructions are not those of {record.id}"
        declared = {tool["name"]: tool for tool in session.body.meta["tools"]}
        wanted = {tool.name: tool.model_dump(mode="json") for tool in asked.tools}
        if wanted and wanted != declared:
            return f"the tools are not those of {record.id}"
        if asked.stateless is not await self._stateless.holds(session):
            return f"the model is not that of {record.id}"
        if asked.options.get("history", history_of(session)) != history_of(session):
            return f"`torpor.history` is not that of {record.id}"
        try:
            await self._store.snapshot(record.snapshot)
        except store_errors.NotFound:
            return f"the snapshot of {record.id} is let go: its session was rewound"
        return None

    def _turn(
        self, asked: Asked, follows: Follows, way: _Way, key: str | None
    ) -> AsyncGenerator[TurnEvent]:
        record, options = follows.record, dict(asked.options)
        if record is None or way.anew is not None:
            system = way.instructions
            head = [Said(Message(role="system", content=system))] if system else []
            said = conversation([*head, *said_in([*way.past, *asked.items])], "input")
            _require_question(said)
            if follows.session is not None and not asked.stateless:
                options.setdefault("history", history_of(follows.session))
            whole = asked_of(said, tools=asked.tools, stateless=asked.stateless, **options)
            return self._conversations.run(whole, key=key)
        answered = said_in(record.response["output"])
        said = conversation([*answered, *said_in(asked.items)], "input")[len(answered) :]
        _require_question(said)
        assert follows.session is not None, "a record is of a session"
        if not asked.tools and follows.session.body.meta["tools"]:
            if options.setdefault("tool_choice", "none") not in ("auto", "none"):
                raise BadRequest(
                    f"a call is required, and no tools are given. {NOTHING_DONE}",
                    param="tool_choice",
                )
            options["tool_choice"] = "none"
        return self._conversations.go_on(
            record.session_id,
            record.snapshot,
            asked_of(said, tools=asked.tools, **options),
            what=f"an answer behind {record.id}",
            key=key,
        )

    async def _kept(
        self,
        response: shown.Shown,
        asked: Asked,
        follows: Follows,
        way: _Way,
        result: TurnResult,
        keep: Keep,
    ) -> shown.Shown:
        """The response, and whether it can be found again."""
        if not asked.request.is_stored:
            return response
        why = result.not_durable_because
        if result.snapshot is not None:
            before = None if follows.left is not None else follows.record
            sent = asked.items if follows.left is None else [*way.past, *asked.items]
            items = [*sent, *response["output"]]
            record = ResponseRecord(
                response=response,
                input=sent,
                session_id=result.session_id,
                snapshot=result.snapshot,
                previous=None if before is None else before.id,
                previous_session_id=None if before is None else before.session_id,
                count=len(items) + (0 if before is None else before.count),
                digest=digest_of(items, "" if before is None else before.digest),
            )
            try:
                await keep(record, result.parent)
                return response
            except (NotFound, StoreError) as error:
                logger.warning("%s is not kept: %s", record.id, error)
                why = str(error)
        return response | {
            "store": False,
            "torpor": response["torpor"] | {"not_kept_because": why},
        }


def _require_question(said: Sequence[Message]) -> None:
    if not said or said[-1].role not in ("user", "tool"):
        raise BadRequest(
            f"the input ends with what is to be answered. {NOTHING_DONE}", param="input"
        )
