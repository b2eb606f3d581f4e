"""Async Python client of the runtime.

    async with Torpor("http://127.0.0.1:8700") as torpor:
        session = await torpor.create(system="You are an agent.", tools=[calculator.spec])
        result = await torpor.turn(session.id, "What is 48 * 17?")
        await torpor.suspend(session.id)

Every failure is an `ApiError` with the service's stable `code`, or `ApiUnreachable`; what cannot be
sent, as an id that no path can name or an option that does not exist, is a `BadRequest`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import httpx
from pydantic import BaseModel

from agent_runtime.sdk.errors import ApiUnreachable, read, rows_of
from agent_runtime.sdk.files import SessionFiles
from agent_runtime.sdk.ledger import SessionLedger
from agent_runtime.sdk.requests import Requests, Told, base_url, body_of, path_of
from agent_runtime.sdk.tenants import TenantsClient
from agent_runtime.wire.events import EVENTS, RESUME_EVENTS, Progress, TurnEvent
from agent_runtime.wire.messages import HistoryPolicy, Message, Options, SaidMessage
from agent_runtime.wire.residency import (
    Dropped,
    Held,
    HoldRequest,
    Persisted,
    PersistRequest,
    Released,
    Resumed,
    ResumeRequest,
    Suspended,
    SuspendRequest,
    Whereabouts,
)
from agent_runtime.wire.scheduling import EngineSlots
from agent_runtime.wire.session_events import SESSION_EVENTS
from agent_runtime.wire.sessions import (
    CreateSession,
    Forked,
    ForkRequest,
    SessionView,
    SnapshotView,
)
from agent_runtime.wire.turns import (
    Cancellation,
    ConversationRequest,
    SamplingDefaults,
    TurnRequest,
    TurnResult,
)
from agent_runtime.wire.versions import DiffView, Fork, Forks, ForksRequest, RewindRequest, TreeView
from state_store.key_text import tenant_of
from tools.define import ToolSpec

_HAPPENINGS: dict[str, type[BaseModel]] = {"session": SessionView, **SESSION_EVENTS}


class _Items(BaseModel):
    items: list[Any]


class _Popped(BaseModel):
    item: Any


class Torpor:
    """One runtime, by its URL. Use as an async context manager.

    Each method has its line in `sync.py`, for code that does not await.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """timeout: seconds; transport: what carries requests, None for the network. Raises
        BadRequest for what is no URL of a service."""
        self._http = httpx.AsyncClient(
            base_url=base_url(url),
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(timeout, connect=5.0),
            limits=httpx.Limits(max_connections=None),  # any number of turns may run at a time
            trust_env=False,
            transport=transport,
        )
        self._requests = Requests(self._http)
        self.owner = _owner(api_key)
        """Whose sessions it sees: a name for what is kept on this machine, and no secret."""

    @property
    def ledger(self) -> SessionLedger:
        """What the tools of its sessions have done, see `tools.running.Executor`."""
        return SessionLedger(self._requests.call)

    @property
    def files(self) -> SessionFiles:
        """Files that go with its sessions' snapshots, see `workspaces.SessionWorkspaces`."""
        return SessionFiles(self._requests.call)

    @property
    def tenants(self) -> TenantsClient:
        """For who runs the service: see `docs/access.md`."""
        return TenantsClient(self._requests)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def create(
        self,
        *,
        system: str | None = None,
        tools: Sequence[ToolSpec] = (),
        labels: Mapping[str, str] | None = None,
        sampling: SamplingDefaults | None = None,
        template: Options | None = None,
        history: HistoryPolicy = "append",
        stateless: bool | None = None,
        idempotency_key: str | None = None,
    ) -> SessionView:
        """sampling, template: of turns that say nothing else; history, stateless: see CreateSession

        idempotency_key: the same session for each attempt"""
        request = body_of(
            CreateSession,
            system=system,
            tools=list(tools),
            labels=dict(labels or {}),
            stateless=stateless,
            template=dict(template or {}),
            history=history,
            sampling=sampling or SamplingDefaults(),
        )
        return read(
            SessionView,
            await self._requests.call(
                "POST", "/v1/sessions", request.model_dump(mode="json"), key=idempotency_key
            ),
        )

    async def get(self, session_id: str) -> SessionView:
        return read(SessionView, await self._requests.call("GET", path_of("sessions", session_id)))

    async def sessions(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        residency: str | None = None,
        limit: int = 100,
    ) -> AsyncGenerator[SessionView]:
        """All sessions, or those with all of `labels` and in `residency`, newest first, read
        `limit` at a time."""
        where = {} if residency is None else {"residency": residency}
        path = _page_path("/v1/sessions", labels or {}, limit, **where)
        async for row in self._requests.listed(path):
            yield read(SessionView, row)

    async def set_labels(self, session_id: str, labels: Mapping[str, str]) -> SessionView:
        """In place of those that it has; what it is found by."""
        path, body = path_of("sessions", session_id, "labels"), {"labels": dict(labels)}
        return read(SessionView, await self._requests.call("PUT", path, body))

    async def snapshot(self, snapshot_id: str) -> SnapshotView:
        path = path_of("snapshots", snapshot_id)
        return read(SnapshotView, await self._requests.call("GET", path))

    async def label_snapshot(self, snapshot_id: str, labels: Mapping[str, str]) -> SnapshotView:
        """In place of those that it has. It keeps them for as long as a session reaches it."""
        path, body = path_of("snapshots", snapshot_id, "labels"), {"labels": dict(labels)}
        return read(SnapshotView, await self._requests.call("PUT", path, body))

    async def find_snapshots(
        self, labels: Mapping[str, str], *, limit: int = 100
    ) -> AsyncGenerator[SnapshotView]:
        """Those with all of `labels`, newest first, read `limit` at a time."""
        async for row in self._requests.listed(_page_path("/v1/snapshots", labels, limit)):
            yield read(SnapshotView, row)

    async def whereabouts(self, session_id: str) -> Whereabouts:
        """Where the state of the session's head is now."""
        path = path_of("sessions", session_id, "whereabouts")
        return read(Whereabouts, await self._requests.call("GET", path))

    async def snapshots(self, session_id: str, *, last: int | None = None) -> list[SnapshotView]:
        """The session's history, root first; last: only so many, up to its head."""
        if last is not None and last < 1:
            raise ValueError(f"last={last}: there is at least one to ask for.")
        path = path_of("sessions", session_id, "snapshots")
        found: list[SnapshotView] = []
        async with contextlib.aclosing(
            self._requests.listed(_page_path(path, {}, min(last or 1000, 1000)))
        ) as rows:
            async for row in rows:
                found.append(read(SnapshotView, row))
                if len(found) == last:
                    break
        return found[::-1]

    async def messages(self, session_id: str, *, limit: int = 100) -> AsyncGenerator[SaidMessage]:
        """What was said in the session's history, as text: the newest first, read `limit` at a
        time."""
        path = _page_path(path_of("sessions", session_id, "messages"), {}, limit)
        async for row in self._requests.listed(path):
            yield read(SaidMessage, row)

    async def stream(
        self,
        /,
        session_id: str,
        messages: str | Sequence[Message],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> AsyncGenerator[TurnEvent]:
        """Run a turn: events as they come (`Text` pieces), then the TurnResult.

        messages: a user message's text, or messages; none with `proceed=True`.
        idempotency_key: a repeated request with it is answered as the first was.
        options: fields of TurnRequest.
        """
        if isinstance(messages, str):
            messages = [Message(role="user", content=messages)]
        request = body_of(TurnRequest, messages=list(messages), **options)
        events = self._requests.streamed(
            path_of("sessions", session_id, "turns"), request, EVENTS, idempotency_key
        )
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def events(self, session_id: str, *, after: str | None = None) -> AsyncGenerator[Told]:
        """What happens to the session, until it is deleted: first a SessionView of how it is now,
        then events of `wire/session_events.py`. after: the `id` of the last one that is known"""
        path = path_of("sessions", session_id, "events")
        told = self._requests.followed(path, _HAPPENINGS, after=after)
        async with contextlib.aclosing(told) as events:
            async for event in events:
                yield event

    async def resume_turn(self, session_id: str) -> AsyncGenerator[TurnEvent]:
        """Run again the turn that was interrupted when its runtime died; as `stream`."""
        events = self._requests.streamed(
            path_of("sessions", session_id, "turns", "resume"), None, EVENTS
        )
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def cancel(self, session_id: str) -> Cancellation:
        """End the session's turn while it is generated: its head stays."""
        return read(
            Cancellation,
            await self._requests.call("POST", path_of("sessions", session_id, "cancel")),
        )

    async def turn(
        self, /, session_id: str, messages: str | Sequence[Message], **options: Any
    ) -> TurnResult:
        """Run a turn to its end. Raises ApiUnreachable if the stream ends without a result."""
        return await _last(self.stream(session_id, messages, **options))

    async def converse_stream(
        self,
        /,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        idempotency_key: str | None = None,
        **options: Any,
    ) -> AsyncGenerator[TurnEvent]:
        """Answer a whole conversation, of which the runtime knows what it has answered before:
        events as they come, then the TurnResult. options: fields of ConversationRequest."""
        request = body_of(
            ConversationRequest, messages=list(messages), tools=list(tools), **options
        )
        events = self._requests.streamed("/v1/converse", request, EVENTS, idempotency_key)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def converse(
        self, /, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), **options: Any
    ) -> TurnResult:
        """As `converse_stream`, to its end. Raises ApiUnreachable if it ends without a result."""
        events = self.converse_stream(messages, tools=tools, **options)
        return await _last(events)

    async def suspend(
        self, session_id: str, *, durability: str = "fsync", expected_head: str | None = None
    ) -> Suspended:
        body = body_of(SuspendRequest, durability=durability, expected_head=expected_head)
        path = path_of("sessions", session_id, "suspend")
        return read(Suspended, await self._requests.call("POST", path, body.model_dump()))

    async def resume(
        self,
        session_id: str,
        *,
        strict: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Resumed:
        """on_progress: told now and then how much is loaded, if it takes longer than a moment"""
        path = path_of("sessions", session_id, "resume")
        request = body_of(ResumeRequest, strict=strict)
        if on_progress is None:
            return read(Resumed, await self._requests.call("POST", path, request.model_dump()))
        async with contextlib.aclosing(
            self._requests.streamed(path, request, RESUME_EVENTS)
        ) as events:
            async for event in events:
                if isinstance(event, Resumed):
                    return event
                on_progress(event)
        raise ApiUnreachable("the resume's stream ended without a result; resume it again.")

    async def persist(self, session_id: str, *, durability: str = "fsync") -> Persisted:
        """Make the head durable at `durability`, and leave it where it is."""
        body = body_of(PersistRequest, durability=durability).model_dump()
        return read(
            Persisted,
            await self._requests.call("POST", path_of("sessions", session_id, "persist"), body),
        )

    async def hold(self, session_id: str, *, seconds: float = 600.0) -> Held:
        """Keep the head on the engine's device for so long, whatever else needs the room."""
        body = body_of(HoldRequest, seconds=seconds).model_dump()
        return read(
            Held, await self._requests.call("POST", path_of("sessions", session_id, "hold"), body)
        )

    async def release(self, session_id: str) -> Released:
        """End a hold."""
        return read(
            Released, await self._requests.call("POST", path_of("sessions", session_id, "release"))
        )

    async def drop(self, session_id: str) -> Dropped:
        """Free the engine's device of what only this session's head uses."""
        return read(
            Dropped, await self._requests.call("POST", path_of("sessions", session_id, "drop"))
        )

    async def fork(
        self,
        session_id: str,
        *,
        snapshot: str | None = None,
        tokens: int | None = None,
        labels: Mapping[str, str] | None = None,
        expected_head: str | None = None,
        idempotency_key: str | None = None,
    ) -> Forked:
        """A new session that begins with this one's history: up to its head, to `snapshot`, or to
        exactly `tokens` tokens (0: none), whose state is the latest one kept before."""
        request = body_of(
            ForkRequest,
            snapshot=snapshot,
            tokens=tokens,
            labels=dict(labels or {}),
            expected_head=expected_head,
        )
        body = request.model_dump()
        return read(
            Forked,
            await self._requests.call(
                "POST", path_of("sessions", session_id, "fork"), body, key=idempotency_key
            ),
        )

    async def forks(
        self,
        session_id: str,
        count: int,
        *,
        snapshot: str | None = None,
        tokens: int | None = None,
        labels: Mapping[str, str] | None = None,
        expected_head: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[Fork]:
        """As `fork`, so many at once: each made, or not and with its problem."""
        request = body_of(
            ForksRequest,
            count=count,
            snapshot=snapshot,
            tokens=tokens,
            labels=dict(labels or {}),
            expected_head=expected_head,
        )
        path = path_of("sessions", session_id, "forks")
        answer = await self._requests.call("POST", path, request.model_dump(), key=idempotency_key)
        return read(Forks, answer).forks

    async def rewind(
        self,
        session_id: str,
        *,
        snapshot: str | None = None,
        turns: int | None = None,
        expected_head: str | None = None,
    ) -> SessionView:
        """Move the head back to a snapshot of the session's history ("": before the first turn),
        or by a number of turns. What no session reaches any more is let go."""
        body = body_of(RewindRequest, snapshot=snapshot, turns=turns, expected_head=expected_head)
        path = path_of("sessions", session_id, "rewind")
        return read(SessionView, await self._requests.call("POST", path, body.model_dump()))

    async def diff(self, session_id: str, other: str) -> DiffView:
        """Where the session's history and that of another session or snapshot part."""
        path = f"{path_of('sessions', session_id, 'diff')}?{urlencode({'other': other})}"
        return read(DiffView, await self._requests.call("GET", path))

    async def tree(
        self, session_id: str, *, limit: int = 1000, after: str | None = None
    ) -> AsyncGenerator[TreeView]:
        """The session, all its forks and theirs, and what they reach: pages of `limit` snapshots
        and sessions, the newest first, see `TreeView.whole`. after: `next` of an earlier page"""
        asked = {"limit": limit} | ({} if after is None else {"after": after})
        path = f"{path_of('sessions', session_id, 'tree')}?{urlencode(asked)}"
        async for page in self._requests.pages(path):
            yield read(TreeView, page)

    async def export(self, session_id: str, path: Path) -> None:
        """Write the session with its whole history to a file, which is there once it is whole."""
        await self._requests.download(path_of("sessions", session_id, "export"), path)

    async def import_session(self, path: Path) -> SessionView:
        """A new session from an exported file."""
        return read(SessionView, await self._requests.upload("/v1/import", path))

    async def delete(self, session_id: str, *, expected_head: str | None = None) -> None:
        """expected_head: if given, nothing is done unless it is the session's head"""
        query = "" if expected_head is None else f"?{urlencode({'expected_head': expected_head})}"
        await self._requests.call("DELETE", path_of("sessions", session_id) + query)

    async def items(self, name: str, *, limit: int | None = None) -> list[Any]:
        """What a framework keeps under a name: the last `limit` items, in their order."""
        which = "" if limit is None else f"?limit={limit}"
        answer = await self._requests.call("GET", path_of("items", name) + which)
        return read(_Items, answer).items

    async def add_items(self, name: str, items: Sequence[Any]) -> None:
        """Append JSON values."""
        await self._requests.call("POST", path_of("items", name), {"items": list(items)})

    async def pop_item(self, name: str) -> Any:
        """Take the last item away; None if there is none."""
        answer = await self._requests.call("POST", path_of("items", name, "pop"))
        return read(_Popped, answer).item

    async def clear_items(self, name: str) -> None:
        await self._requests.call("DELETE", path_of("items", name))

    async def scheduling(self) -> list[EngineSlots]:
        """How this runtime shares the slots of each engine that it has given turns to."""
        rows = await self._requests.call("GET", "/v1/scheduling")
        return [read(EngineSlots, row) for row in rows_of(rows)]

    async def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._requests.call("GET", "/health")
        return answer


async def _last(events: AsyncGenerator[TurnEvent]) -> TurnResult:
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, TurnResult):
                return event
    raise ApiUnreachable("the turn's stream ended without a result; read the session's head.")


def _page_path(path: str, labels: Mapping[str, str], limit: int, **where: str) -> str:
    asked = {
        "limit": limit,
        "label": [f"{name}={value}" for name, value in labels.items()],
        **where,
    }
    return f"{path}?{urlencode(asked, doseq=True)}"


def _owner(api_key: str | None) -> str:
    """The tenant, if the key names one."""
    if api_key is None:
        return "default"
    return tenant_of(api_key) or f"key-{hashlib.sha256(api_key.encode()).hexdigest()[:16]}"
