"""Sessions of a backend that keeps no state: any OpenAI-compatible endpoint in an engine's place.

    lease ── messages ── request ── stream ── commit of the messages
                            └─ all of them, each time: the endpoint computes them again

They live in the same store as sessions with state: the same forks, leases and commits. A snapshot
has the messages in its log (see `message_log`), and neither pages nor a state.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from agent_runtime.errors import NeedsState, NoBackend, NothingReused
from agent_runtime.messages.message_log import WireMessage, messages_of, words_of
from agent_runtime.messages.order import require_appendable, require_order
from agent_runtime.turns.cancelling import Cancellable
from agent_runtime.turns.constraints import protocol_fields
from agent_runtime.wire.events import Reasoning, Text, TurnEvent, called
from agent_runtime.wire.messages import Message, Options
from agent_runtime.wire.residency import Resumed, ResumeRequest
from agent_runtime.wire.sessions import CreateSession
from agent_runtime.wire.turns import ConversationRequest, Timing, TurnRequest, TurnResult, Usage
from engine.backends.chat import Answer, Backend
from engine.backends.stream import Call, Piece
from engine.client import Sampling
from state_store.errors import StoreUnavailable
from state_store.fingerprint import Fingerprint
from state_store.records import Lease, Session, Snapshot, SnapshotDraft
from state_store.store import StateStore
from tools.calls import ToolCall
from tools.formats.clean import clean

logger = logging.getLogger(__name__)

_FORMAT = "messages-1"  # version of the log's format
WHY = "the backend keeps no state"


Prepare = Callable[[TurnResult], Awaitable[dict[str, Any]]]


class Stateless:
    """Turns of sessions without state. `backend` is None in a runtime that has none: it shows,
    forks and deletes such sessions, and takes no turns."""

    def __init__(self, store: StateStore, backend: Backend | None, *, only: bool) -> None:
        """only: whether the runtime serves no other sessions, and makes these unless told not to"""
        self._store = store
        self._backend = backend
        self._only = only

    def is_asked_for(self, request: CreateSession | ConversationRequest) -> bool:
        return self._only if request.stateless is None else request.stateless

    async def holds(self, session: Session) -> bool:
        """Whether it is a session without state."""
        fingerprint = await self._store.fingerprint(session.body.fingerprint_id)
        return fingerprint.engine == _FORMAT

    def fingerprint(self) -> Fingerprint:
        """Of new sessions. Raises NoBackend."""
        if self._backend is None:
            raise NoBackend(
                "this runtime has no backend for sessions without state. Start it with "
                "torpor serve --backend URL --backend-model NAME."
            )
        return _fingerprint(self._backend.settings.model)

    async def require_backend(self, session: Session) -> Backend:
        """The one that answers the session. Raises NoBackend."""
        backend, found = self._backend, self.fingerprint()
        assert backend is not None, "a fingerprint was made for its model"
        if found.id != session.body.fingerprint_id:
            wanted = await self._store.fingerprint(session.body.fingerprint_id)
            raise NoBackend(
                f"{session.id} is answered by the model {wanted.weights}, and this runtime's "
                f"backend serves {found.weights}. The session is kept; ask a runtime whose "
                "--backend-model is that."
            )
        return backend

    async def require_state(self, session: Session, done: str) -> None:
        """done: what is to be done to a session, as in "exported". Raises NeedsState."""
        if await self.holds(session):
            raise NeedsState(
                f"{session.id} cannot be {done}: {WHY}, and its history is messages. It "
                "is unchanged."
            )

    async def resume(self, session: Session, request: ResumeRequest) -> Resumed:
        """Nothing is restored. Raises NothingReused in strict mode, NoBackend."""
        started = time.perf_counter()
        await self.require_backend(session)
        head = None if session.head is None else await self._store.snapshot(session.head)
        if request.strict and head is not None:
            raise NothingReused(
                f"nothing of {session.id} can be restored: {WHY}. The messages are intact; "
                "resume without strict to have all computed again."
            )
        return Resumed(
            session_id=session.id,
            head=session.head,
            tokens=0 if head is None else tokens_of(head),
            restorable_tokens=0,
            bytes_read=0,
            reason=WHY,
            seconds=time.perf_counter() - started,
        )

    async def turn(
        self,
        session: Session,
        lease: Lease,
        request: TurnRequest,
        *,
        cancellable: Cancellable,
        prepare: Prepare,
        started: float,
    ) -> AsyncGenerator[TurnEvent]:
        """Yield text as it comes, then one TurnResult after the commit.

        prepare: told of the result before the commit; what the snapshot is to keep of it
        started: when the request came, by `time.perf_counter`

        Raises NoBackend, NeedsState, BadRequest, QuotaExceeded, and what `Backend.complete` raises.
        After any of them the session's head is what it was.
        """
        backend = await self.require_backend(session)
        _require_possible(session, request)
        parent = None if session.head is None else await self._store.snapshot(session.head)
        history = [] if parent is None else messages_of(await self._store.tokens(parent.id))
        new = _opening(session) if parent is None else []
        new += _on_the_wire(request.messages, [*history, *new])
        await self._store.require_room(session.body.tenant, tokens=len(words_of(new)) + 1)
        first_at: float | None = None
        answer: Answer | None = None
        events = backend.complete(
            [*history, *new],
            tools=[{"type": "function", "function": tool} for tool in session.body.meta["tools"]],
            held_to=_fields(request, session),
            sampling=Sampling(
                max_new_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
            ),
        )
        async with contextlib.aclosing(cancellable.events(events)) as pieces:
            async for event in pieces:
                first_at = first_at or time.perf_counter()
                if isinstance(event, Answer):
                    answer = event
                elif event.reasoning:
                    yield Reasoning(text=event.reasoning)
                if isinstance(event, Piece) and event.text:
                    yield Text(text=event.text)
        assert answer is not None, "a stream ends with its answer"
        generated_at = time.perf_counter()
        result = _result(session, parent, answer)
        for call in result.tool_calls:
            yield called(call)
        new.append(_said(answer, place=len(history) + len(new)))
        meta = await prepare(result)
        result = await self._commit(lease, parent, session, new, answer, request, result, meta)
        timing = Timing(
            ttft_s=(first_at or generated_at) - started,
            generate_s=generated_at - started,
            commit_s=time.perf_counter() - generated_at,
        )
        yield result.model_copy(update={"timing": timing})

    async def _commit(
        self,
        lease: Lease,
        parent: Snapshot | None,
        session: Session,
        new: Sequence[WireMessage],
        answer: Answer,
        request: TurnRequest,
        result: TurnResult,
        meta: dict[str, Any],
    ) -> TurnResult:
        words = words_of(new)
        draft = SnapshotDraft(
            session_id=session.id,
            parent=session.head,
            new_tokens=words,
            total_tokens=len(words) + (parent.total_tokens if parent else 0),
            boundary=0,
            boundary_hash=None,
            page_hashes=(),
            fingerprint_id=session.body.fingerprint_id,
            ranks=1,
            meta={
                **meta,
                "tokens": answer.prompt_tokens + answer.completion_tokens,
                "prompt_tokens": answer.prompt_tokens,
                "model": answer.model,
            },
            economy=session.body.economy,
            files=request.workspace,
        )
        try:
            commit = await self._store.commit(draft, lease=lease, durability=request.durability)
        except StoreUnavailable as error:
            logger.error("turn of %s is not committed: %s", session.id, error)
            return result.model_copy(update={"not_durable_because": str(error)})
        return result.model_copy(
            update={
                "snapshot": commit.snapshot.id,
                "durable": commit.durability,
                "not_durable_because": commit.shortfall,
            }
        )


def require_no_options(options: Options, *, history: str = "append") -> None:
    """Raises NeedsState for options of a chat template, and for a history that follows it."""
    if history != "append":
        raise NeedsState(
            f"a backend renders its prompts itself, all of them each time, so history={history!r} "
            "would change nothing. Nothing was made; leave it out."
        )
    if options:
        raise NeedsState(
            f"a backend renders its prompts itself and takes no options of a chat template, so "
            f"{min(options)!r} would change nothing. Nothing was generated; leave it out."
        )


def tokens_of(snapshot: Snapshot) -> int:
    """Tokens of the history up to a snapshot; as the backend counted them, if it has no state."""
    return int(snapshot.meta.get("tokens", snapshot.total_tokens))


def said_on_the_wire(message: WireMessage) -> Message:
    """A message of the log as sessions with state have it."""
    calls = [
        Call(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    return Message(
        role=message["role"],
        content=message["content"] or "",
        tool_calls=tuple(_made(call)[0] for call in calls),
    )


def _fingerprint(model: str) -> Fingerprint:
    return Fingerprint(
        weights=model,
        architecture="none",
        tokenizer="none",
        kv_dtype="none",
        conv_dtype="none",
        ssm_dtype="none",
        page_size=1,
        kv_payload_bytes=0,
        state_payload_bytes=0,
        kv_segments=(),
        state_segments=(),
        tp_size=1,
        draft="none",
        bigram=False,
        engine=_FORMAT,
    )


def _require_possible(session: Session, request: TurnRequest) -> None:
    kept = f"{WHY}; {session.id} is unchanged."
    if request.proceed:
        raise NeedsState(
            f"an answer cannot be gone on with where it was cut off: {kept} Send a message instead."
        )
    require_no_options(request.template)
    if request.thinking_tokens is not None:
        raise NeedsState(
            f"a backend's thinking cannot be ended by a number of tokens: {kept} Ask without "
            "thinking_tokens."
        )
    if request.top_logprobs:
        raise NeedsState(
            f"log-probabilities name token ids, and a backend deals in text: {kept} Ask without "
            "top_logprobs."
        )
    if request.marks:
        raise NeedsState(f"there is no boundary behind a message: {kept} Ask without marks.")
    if request.regex is not None or request.ebnf is not None:
        raise NeedsState(
            f"the protocol of backends has schemas, and no patterns and grammars: {kept} Ask with "
            "json_schema."
        )


def _fields(request: TurnRequest, session: Session) -> dict[str, Any]:
    fields: dict[str, Any] = {"stop": list(request.stop)} if request.stop else {}
    if request.effort is not None:  # what it does not know, the endpoint refuses
        fields["reasoning_effort"] = request.effort
    return protocol_fields(request, session.body.meta["tools"]) | fields


def _opening(session: Session) -> list[WireMessage]:
    system = session.body.meta["system"]
    return [] if system is None else [{"role": "system", "content": system}]


def _on_the_wire(messages: Sequence[Message], before: Sequence[WireMessage]) -> list[WireMessage]:
    """Messages of a turn, with the ids that tie results to calls: results answer the last calls,
    in their order. Raises BadRequest."""
    wire: list[WireMessage] = []
    waiting = _calls_at_the_end_of(before)
    require_order(messages, waiting=len(waiting))
    require_appendable(messages)
    for message in messages:
        one: WireMessage = {"role": message.role, "content": message.content}
        if message.role == "tool":
            one["tool_call_id"] = waiting.pop(0)
        else:
            place = len(before) + len(wire)
            calls = [
                Call(f"call_{place}_{number}", call.name, json.dumps(call.arguments))
                for number, call in enumerate(message.tool_calls)
            ]
            one |= _with_calls(calls)
            waiting = [call.id for call in calls]
        wire.append(one)
    return wire


def _calls_at_the_end_of(messages: Sequence[WireMessage]) -> list[str]:
    return [call["id"] for call in messages[-1].get("tool_calls", ())] if messages else []


def _with_calls(calls: Sequence[Call]) -> WireMessage:
    if not calls:
        return {}
    return {
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    }


def _said(answer: Answer, *, place: int) -> WireMessage:
    """The answer as a part of the history, the message of that number.

    Without its reasoning, which endpoints do not take back, and with arguments that are JSON: an
    endpoint that reads them would refuse every later turn.
    """
    calls = [
        Call(
            call.id or f"call_{place}_{number}",
            call.name,
            json.dumps(made.arguments) if problems else call.arguments,
        )
        for number, call in enumerate(answer.calls)
        for made, problems in (_made(call),)
    ]
    return {"role": "assistant", "content": answer.text, **_with_calls(calls)}


def _result(session: Session, parent: Snapshot | None, answer: Answer) -> TurnResult:
    known = 0 if parent is None else tokens_of(parent)
    reused = min(answer.cached_tokens, answer.prompt_tokens)
    recomputed = max(0, min(known, answer.prompt_tokens) - reused)
    calls, problems = [], []
    for call in answer.calls:
        made, wrong = _made(call)
        calls.append(made)
        problems += wrong
    if answer.reasoning and not (answer.text or calls):
        problems.append("the answer was all reasoning, and there is no text")
    return TurnResult(
        session_id=session.id,
        parent=session.head,
        text=answer.text.strip(),
        reasoning=answer.reasoning.strip(),
        tool_calls=calls,
        problems=problems,
        finish_reason="stop" if answer.finish_reason == "tool_calls" else answer.finish_reason,
        token_ids=[],
        usage=Usage(
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            reused_tokens=reused,
            recomputed_tokens=recomputed,
            boundary_tokens=0,
            recompute_reason=WHY if recomputed else None,
            reasoning_tokens=answer.reasoning_tokens,
        ),
        mtp_accept_length=None,
    )


def _made(call: Call) -> tuple[ToolCall, list[str]]:
    """The call as it was meant, and what is wrong with it."""
    said = call.arguments[:200]
    try:
        arguments = json.loads(call.arguments or "{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return ToolCall(name=call.name), [f"the arguments of {call.name} are not JSON: {said}"]
    if not isinstance(arguments, dict):
        return ToolCall(name=call.name), [f"the arguments of {call.name} are no object: {said}"]
    return clean(ToolCall(name=call.name, arguments=arguments))


def _no_constant(name: str) -> object:
    raise ValueError(f"JSON has no {name}")
