"""Clients that send their whole history each time, and land on the snapshot it led to.

    system, tools ── message ── message ── … ── answer        each message's hash covers all before
                        h1         h2             hn ──> session and snapshot, noted in the store

The longest history that is known is continued: in its session if that ends there, else in a fork
of it. So an edit or a retry further up becomes a branch by itself, and nothing is computed twice.
What is not known is rendered as the checkpoint's template shows it, in a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import BadRequest, HeadMoved, NoBackend, StillRunning
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.idempotency import Claim, part_of
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.events import TurnEvent
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import CreateSession
from agent_runtime.wire.turns import ConversationRequest, TurnRequest, TurnResult
from engine.errors import NoEngine
from state_store.errors import (
    CorruptObject,
    InvalidId,
    LeaseHeld,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from state_store.store import StateStore
from tools.budget import bounded
from tools.calls import ToolCall
from tools.coercion import properties_of, typed
from tools.define import ToolSpec

logger = logging.getLogger(__name__)

_OF_CONVERSATIONS = ConversationRequest.model_fields.keys() - TurnRequest.model_fields.keys()


class Place(NamedTuple):
    """Where a conversation is continued.

    messages: how many of its messages are in the snapshot
    snapshot: the session's head then, None for a new session
    origin:   the session that it is to be a fork of, if it is not there yet
    """

    messages: int
    session_id: str
    snapshot: str | None
    origin: str | None = None


@dataclass(frozen=True)
class _Asked:
    """said: all of it, or what is new, without the system text; key: of idempotency"""

    system: str | None
    said: Sequence[Message]
    request: ConversationRequest
    key: str | None
    claim: Claim | None


class Conversations:
    """Turns of conversations that are known by what was said in them."""

    def __init__(
        self,
        store: StateStore,
        sessions: Sessions,
        turns: Turns,
        settings: RuntimeSettings,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._turns = turns
        self._settings = settings
        self._deletions: set[asyncio.Task[None]] = set()

    async def run(
        self, request: ConversationRequest, *, key: str | None = None
    ) -> AsyncGenerator[TurnEvent]:
        """Answer a whole conversation: text as it is generated, then one TurnResult.

        key: of idempotency; a retry goes on in the session that the first request chose

        Raises BadRequest for one that is none, and what `Turns.run` raises; a session or branch
        that was made for the answer is deleted then, unless a retry with the key is at work in it.
        """
        system, said = _split(request.messages)
        if not said or said[-1].role == "assistant":
            raise BadRequest("a conversation ends with what is to be answered.")
        chain = await self._chain(request)
        claim = None
        if key is not None:
            claim, _ = await self._turns.claims.claim(key, "an answer", request)
        result: TurnResult | None = None
        asked = _Asked(system, said, request, key, claim)
        events = self._continued(asked, chain)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, TurnResult):
                    result = event
                else:
                    yield event
        assert result is not None, "a turn ends with its result"
        await self._remember(request, chain[-1], result)
        yield result

    async def remember(self, request: ConversationRequest, result: TurnResult) -> None:
        """That the conversation, with this answer to it, is where the result says."""
        await self._remember(request, (await self._chain(request))[-1], result)

    async def discard(self, session_id: str, *, head: str | None = None) -> None:
        """Delete a session that was made for an answer which did not come.

        head: if given, it stays unless this is its head and nobody writes: a retry found it
        """
        # Not awaited in here alone: see `Writers.writing`.
        deleting = asyncio.create_task(self._delete(session_id, head))
        self._deletions.add(deleting)
        deleting.add_done_callback(self._deletions.discard)
        await asyncio.shield(deleting)

    async def go_on(
        self,
        session_id: str,
        snapshot: str,
        request: ConversationRequest,
        *,
        what: str,
        key: str | None = None,
    ) -> AsyncGenerator[TurnEvent]:
        """Answer new messages behind a snapshot: in the session if that is its head, else in a
        fork of it. Events as those of `run`.

        request: its messages are the new ones; tools are the session's
        what:    is asked for, as claims of keys name it
        """
        claim = None
        if key is not None:
            claim, _ = await self._turns.claims.claim(key, what, request)
        place = _claimed(claim) or Place(0, session_id, snapshot)
        events = self._placed(place, _Asked(None, request.messages, request, key, claim))
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _continued(self, asked: _Asked, chain: Sequence[str]) -> AsyncGenerator[TurnEvent]:
        """In the session that ends with what is known, in a fork of it, or in a new session."""
        place = _claimed(asked.claim) or await self._longest(asked.said, chain)
        place = place or Place(0, self._store.new_session_id(), None)
        events = self._placed(place, asked)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _placed(self, place: Place, asked: _Asked) -> AsyncGenerator[TurnEvent]:
        """At the place, or in a fork of it; where another request with the key has gone, if one
        has."""
        place, asked = await self._chosen(place, asked)
        if place.snapshot is not None and place.origin is None:
            # Both are raised before the first token.
            with contextlib.suppress(HeadMoved, LeaseHeld):  # somebody else goes on there
                events = self._run(place, asked)
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event
                return
            fork_id = self._store.new_session_id(beside=place.session_id)
            fork = place._replace(session_id=fork_id, origin=place.session_id)
            place, asked = await self._chosen(fork, asked)
        events = self._run(place, asked)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _chosen(self, place: Place, asked: _Asked) -> tuple[Place, _Asked]:
        """Have every request with the key go on in the same session: the first to choose it does
        so for all."""
        if asked.key is None or asked.claim is None:
            return place, asked
        chosen = asked.claim.model_copy(
            update={
                "ids": [place.session_id],
                "known": place.messages,
                "head": place.snapshot,
                "origin": place.origin,
            }
        )
        if chosen != asked.claim:
            chosen = await self._turns.claims.choose(asked.key, asked.claim, chosen)
        return _claimed(chosen) or place, dataclasses.replace(asked, claim=chosen)

    async def _run(self, place: Place, asked: _Asked) -> AsyncGenerator[TurnEvent]:
        request, key = asked.request, asked.key
        is_made = place.snapshot is None or place.origin is not None
        if is_made:
            await self._turns.unfinished.begin(place.session_id, place.snapshot)
        if place.snapshot is None:
            new = CreateSession(
                system=asked.system,
                tools=request.tools,
                history=request.history,
                stateless=request.stateless,
                labels=request.labels,
            )
            await self._sessions.make(new, place.session_id)
        elif place.origin is not None:
            await self._store.fork(
                place.origin,
                snapshot_id=place.snapshot,
                fork_id=place.session_id,
                labels=request.labels,
            )
        turn = turn_of(request, asked.said[place.messages :], head=place.snapshot or "")
        # A turn that finds its place taken is another than the one in a fork of it.
        turn_key = None if key is None else part_of(key, "turn", place.session_id)
        begun = ended = False
        try:
            events = self._turns.run(place.session_id, turn, key=turn_key)
            async with contextlib.aclosing(events):
                async for event in events:
                    begun, ended = True, isinstance(event, TurnResult)
                    yield event
        except NotFound as error:
            gone = key is not None and is_made and not begun
            if not gone or await self._sessions.made(place.session_id) is not None:
                raise
            # It was made by a request with the key, which has failed since and taken it away.
            raise StillRunning(
                "the first request with this key has just failed, and nothing was done. Ask again "
                "in a moment."
            ) from error
        finally:
            if is_made and ended:
                await self._turns.unfinished.end(place.session_id)
            elif is_made:  # a retry with the key makes it again
                head = None if key is None else place.snapshot or ""
                await self.discard(place.session_id, head=head)

    async def _delete(self, session_id: str, head: str | None) -> None:
        try:
            await self._turns.given_back(session_id)
            await self._sessions.delete(session_id, expected_head=head)
        except (HeadMoved, LeaseHeld):
            logger.info("%s stays: a retry goes on in it", session_id)
        except StoreError as error:
            logger.warning("%s is left over: %s", session_id, error)

    async def _longest(self, said: Sequence[Message], chain: Sequence[str]) -> Place | None:
        """The longest part of the conversation that a snapshot holds, all of it before the end."""
        ends = [i for i, message in enumerate(said) if message.role == "assistant"][::-1]
        tenant = current_tenant(self._settings.tenant)
        notes = await self._store.notes.get(tenant, [_name(chain[i]) for i in ends])
        for end, note in zip(ends, notes, strict=True):
            if note is None:
                continue
            try:
                session_id, snapshot = _noted(note)
                session = await self._store.session(session_id)
                await self._store.snapshot(snapshot)
                if await self._turns.stateless.holds(session):
                    await self._turns.stateless.require_backend(session)
                else:
                    await self._turns.placing.place(session)
            except (NotFound, NoEngine, NoBackend):
                continue  # deleted since, or of a model that is not served now
            except (CorruptObject, InvalidId) as error:  # it is read anew, then
                logger.error("a conversation is not found by what was said: %s", error)
                continue
            return Place(end + 1, session_id, snapshot)
        return None

    async def _chain(self, request: ConversationRequest) -> list[str]:
        """Hashes of the conversation up to each of its messages."""
        stateless = self._turns.stateless.is_asked_for(request)
        system, said = _split(request.messages)
        # A client says how long it is and what its calls are read by, and others wait for the loop.
        return await asyncio.to_thread(_hashes, system, request, said, stateless=stateless)

    async def _remember(self, request: ConversationRequest, asked: str, result: TurnResult) -> None:
        """asked: the hash of what is answered"""
        if result.snapshot is None:
            return
        for reasoning in {"", result.reasoning}:  # not every client sends it back
            answer = Message(
                role="assistant",
                content=result.text,
                tool_calls=tuple(result.tool_calls),
                reasoning=reasoning,
            )
            await self._note(_next_hash(asked, answer, request.tools), result)

    async def _note(self, digest: str, result: TurnResult) -> None:
        note = msgpack.packb([result.session_id, result.snapshot])
        ttl = self._settings.conversation_ttl
        try:
            tenant = current_tenant(self._settings.tenant)
            await self._store.notes.put(tenant, _name(digest), note, ttl=ttl, happened=True)
        except (
            StoreUnavailable
        ) as error:  # the answer is committed; it is read anew when it is said
            logger.warning("%s is not found by what was said: %s", result.session_id, error)


def _noted(note: bytes) -> tuple[str, str]:
    """Session and snapshot. Raises CorruptObject."""
    try:
        session_id, snapshot = msgpack.unpackb(note)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptObject(f"a note cannot be read: {error!r}") from error
    if not (isinstance(session_id, str) and isinstance(snapshot, str)):
        raise CorruptObject("a note names no session")
    return session_id, snapshot


def _claimed(claim: Claim | None) -> Place | None:
    """The place that the first request with the key has chosen."""
    if claim is None or not claim.ids:
        return None
    return Place(claim.known, claim.ids[0], claim.head, claim.origin)


def turn_of(request: ConversationRequest, messages: Sequence[Message], *, head: str) -> TurnRequest:
    """One that appends `messages` to what is known at `head`, or with none goes on right there."""
    of_prompts = () if messages else ("template", "effort")  # it has been rendered
    options = request.model_dump(
        exclude={
            *_OF_CONVERSATIONS, "messages", "marks", "proceed", "expected_head", *of_prompts,
        },
        exclude_unset=True,
    )  # fmt: skip
    known = len(_split(request.messages)[1]) - len(messages)
    return TurnRequest(
        **options,
        messages=list(messages),
        marks=[mark - known for mark in request.marks if mark >= known],
        proceed=not messages,
        expected_head=head,
    )


def _split(messages: Sequence[Message]) -> tuple[str | None, list[Message]]:
    """The system text, and what was said after it."""
    if messages and messages[0].role == "system":
        return messages[0].content, list(messages[1:])
    return None, list(messages)


def _hashes(
    system: str | None,
    request: ConversationRequest,
    said: Sequence[Message],
    *,
    stateless: bool,
) -> list[str]:
    """Of the conversation up to each message."""
    tools = [tool.model_dump(mode="json") for tool in request.tools]
    kind = ["stateless"] if stateless else []
    kind += [] if request.history == "append" else [request.history]
    digest = _digest("", [system, tools, *kind])
    chain = []
    with bounded([call.arguments for message in said for call in message.tool_calls]):
        for message in said:
            digest = _next_hash(digest, message, request.tools)
            chain.append(digest)
    return chain


def _next_hash(before: str, message: Message, tools: Sequence[ToolSpec]) -> str:
    calls = [[call.name, _meant(call, tools)] for call in message.tool_calls]
    thought = [message.reasoning] if message.reasoning else []
    return _digest(before, [message.role, message.content, calls, *thought])


def _meant(call: ToolCall, tools: Sequence[ToolSpec]) -> dict[str, Any]:
    """Arguments as the tool's schema has them, so that a call is known again whether a client sends
    the strings that the model wrote or the numbers and lists that they stand for."""
    schema = next((tool.parameters for tool in tools if tool.name == call.name), {})
    properties = properties_of(schema)
    written = {
        name: value
        for name, value in call.arguments.items()
        if isinstance(value, str) and not _is_text(properties.get(name))
    }
    return {**call.arguments, **typed(written, schema)[0]}


def _is_text(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "string"


def _digest(before: str, content: object) -> str:
    text = json.dumps([before, content], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _name(digest: str) -> str:
    return f"said:{digest}"
