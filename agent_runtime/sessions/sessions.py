"""Sessions: create, look at, suspend, resume, fork, delete."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import NothingReused
from agent_runtime.feed.posting import Feed
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sessions.forks import fork_at
from agent_runtime.sessions.holding import confirmed, give_up
from agent_runtime.sessions.whereabouts import whereabouts
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.cancelling import ENDING
from agent_runtime.turns.expected import require_head
from agent_runtime.turns.formats import why_unusable
from agent_runtime.turns.reporting import Reports
from agent_runtime.turns.stateless import require_no_options, tokens_of
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.events import ResumeEvent
from agent_runtime.wire.residency import (
    Resumed,
    ResumeRequest,
    Suspended,
    SuspendRequest,
    Whereabouts,
)
from agent_runtime.wire.session_events import Deleted, WasSuspended
from agent_runtime.wire.sessions import (
    CreateSession,
    Forked,
    ForkRequest,
    SessionView,
    SnapshotView,
)
from agent_runtime.wire.turns import RunningTurn
from engine.pool import EnginePool
from engine.replies import Prefetch
from state_store.errors import (
    CorruptObject,
    InvalidId,
    LeaseHeld,
    NotFound,
    StoreError,
    VaultLocked,
)
from state_store.layout import is_snapshot_id, lineage_of
from state_store.store import Session, Snapshot, StateStore

_READINGS = 3  # of a session that is rewound while it is read

logger = logging.getLogger(__name__)


class Sessions:
    """Everything about sessions but their turns."""

    def __init__(
        self,
        store: StateStore,
        pool: EnginePool,
        turns: Turns,
        residency: Residency,
        settings: RuntimeSettings,
        feed: Feed,
    ) -> None:
        """feed: is told of what happens to sessions"""
        self._feed = feed
        self._store = store
        self._pool = pool
        self._turns = turns
        self._residency = residency
        self._settings = settings

    async def create(self, request: CreateSession, *, key: str | None = None) -> SessionView:
        """A new, empty session in the state format of a live engine.

        key: of idempotency; the session that was made with it first is told of again
        Raises NoEngine, VaultLocked; NoBackend for one without state; KeyReused.
        """

        async def make(ids: list[str]) -> SessionView:
            return await self.make(request, ids[0])

        new_ids = [self._store.new_session_id()]
        return await self._turns.claims.once(key, "a session", request, new_ids, make, SessionView)

    async def make(self, request: CreateSession, session_id: str) -> SessionView:
        """As `create`, under this id; the session that has it already, if there is one."""
        tenant = current_tenant(self._settings.tenant)
        if self._turns.stateless.is_asked_for(request):
            require_no_options(request.template, history=request.history)
            fingerprint = self._turns.stateless.fingerprint()
        else:
            master_key = await self._store.master_key_id(tenant)
            fingerprint = (await self._pool.pick(master_key=master_key)).record.fingerprint
            if request.template:
                self._turns.chat.template.require(request.template)
        session = await self._store.create_session(
            tenant=tenant,
            fingerprint=fingerprint,
            labels=request.labels,
            meta={
                "system": request.system,
                "tools": [tool.model_dump(mode="json") for tool in request.tools],
                "sampling": request.sampling.model_dump(exclude_none=True),
                **({"template": request.template} if request.template else {}),
                "history": request.history,
            },
            session_id=session_id,
        )
        return await self._view(session, {})

    async def get(self, session_id: str) -> SessionView:
        kept = self._turns.outage.kept_turns()
        return await self._view(await self._store.session(session_id), kept)

    async def listed(
        self, sessions: Sequence[Session], kept: Mapping[str, int], alive: Collection[str]
    ) -> list[SessionView | None]:
        """Sessions of one tenant as a list shows them, in a few round trips; None for one that has
        been deleted since it was listed.

        kept, alive: as of before the list was read, see `_view`
        """
        asked = [one.head for one in sessions if one.head and not self._is_held(one.id, alive)]
        heads, residencies, turns = await asyncio.gather(
            self._store.heads(sessions),
            self._store.residencies(asked),
            self._turns.records.shown(sessions),
        )
        views: list[SessionView | None] = []
        for session, turn in zip(sessions, turns, strict=True):
            head = heads.get(session.head or "")
            where = "device" if self._is_held(session.id, alive) else "empty"
            if where == "empty" and session.head is not None:
                where = residencies.get(session.head, "")
            if where and (head is not None or session.head is None):
                views.append(await self._shown(session, kept, head, where, turn))
            else:
                views.append(await self._listed_alone(session, kept, alive))
        return views

    async def _listed_alone(
        self, session: Session, kept: Mapping[str, int], alive: Collection[str]
    ) -> SessionView | None:
        """One whose head was gone or unreadable: it may have been deleted or rewound. What cannot
        be shown is logged, and keeps nobody from the others."""
        for _ in range(_READINGS):
            why: StoreError
            try:
                session = await self._store.session(session.id)
            except NotFound:
                return None
            except CorruptObject as error:
                why = error
                break
            try:
                return await self._view(session, kept, alive)
            except (NotFound, CorruptObject) as error:
                why = error
        logger.error("%s is left out of a list: %s", session.id, why)
        return None

    async def whereabouts(self, session_id: str) -> Whereabouts:
        """Where the head's state is now."""
        return await whereabouts(self._store, self._pool, self._turns, self._residency, session_id)

    async def snapshots(
        self, session_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[SnapshotView], str | None]:
        """At most `limit` of the session's history, the newest first, and where the next ones
        begin after, None if there are none.

        after: a snapshot of the history. It stays a place in it when the session goes on.
        Raises NotFound, also for a place that a rewind has taken off; InvalidId.
        """
        session = await self._store.session(session_id)
        start, skipped = session.head, 0
        if after is not None:
            start, skipped = _snapshot_id(after), 1
            if lineage_of(start) != lineage_of(session.id):
                raise NotFound(f"{after} is not in the history of {session.id}.")
        if start is None:
            return [], None
        history = await self._store.ancestors(start, most=skipped + limit + 1)
        newest_first = history[::-1][skipped:]
        shown = newest_first[:limit]
        following = shown[-1].id if len(newest_first) > limit else None
        return await self.snapshot_views(shown), following

    async def snapshot(self, snapshot_id: str, *, tenant: str) -> SnapshotView:
        """One of the tenant's. Raises NotFound, InvalidId."""
        found = await self._store.snapshot(_snapshot_id(snapshot_id), tenant=tenant)
        (view,) = await self.snapshot_views([found])
        return view

    async def label_snapshot(
        self, snapshot_id: str, labels: Mapping[str, str], *, tenant: str
    ) -> SnapshotView:
        """Replaces all of them. Raises NotFound, InvalidId, InvalidLabels."""
        await self._store.set_labels(_snapshot_id(snapshot_id), labels, tenant=tenant)
        return await self.snapshot(snapshot_id, tenant=tenant)

    async def suspend(self, session_id: str, request: SuspendRequest) -> Suspended:
        """Make the head durable, then give the engine's memory back.

        Every turn has already stored what it added, so this writes no payload: it confirms, and
        reports what the turns since the last suspend stored. Turns that were kept while the store
        was gone are committed first. Raises KeptTurnsRefused and what `confirmed` raises, and the
        session stays resident then.
        """
        started = time.perf_counter()
        async with self._turns.writing(session_id) as (session, lease):
            session = await self._turns.outage.catch_up(session, lease)
            require_head(session, request.expected_head)
            reached = await confirmed(self._store, self._residency, session_id, request.durability)
            await give_up(self._pool, self._residency, session_id)
        self._feed.tell(session_id, WasSuspended(head=session.head, durable=reached))
        return Suspended(
            session_id=session_id,
            head=session.head,
            durable=reached,
            bytes_written=self._residency.take_written(session_id),
            seconds=time.perf_counter() - started,
        )

    async def resume(self, session_id: str, request: ResumeRequest) -> Resumed:
        """`resuming`, to its end."""
        async with contextlib.aclosing(self.resuming(session_id, request)) as events:
            async for event in events:
                if isinstance(event, Resumed):
                    return event
        raise AssertionError("a resume ends with its result")

    async def resuming(
        self, session_id: str, request: ResumeRequest
    ) -> AsyncGenerator[ResumeEvent]:
        """Have an engine stage the head, so that the next turn starts where it ended; tell how far
        that is, and at last the result.

        What cannot be restored is left to be recomputed from the token log, and `reason` says
        why. Raises NothingReused in strict mode if that is everything; NoEngine, VaultLocked.
        """
        started = time.perf_counter()
        session = await self._store.session(session_id)
        self._turns.readiness.bring_files_back(session)
        if await self._turns.stateless.holds(session):
            resumed = await self._turns.stateless.resume(session, request)
            self._feed.resumed(resumed)
            yield resumed
            return
        engine = (await self._turns.placing.place(session)).engine
        history = await self._turns.history(session.head, session, engine)
        self._residency.left(session_id)
        self._residency.take_written(session_id)
        page_size = engine.record.page_size
        pages = history.boundary // page_size
        restorable, bytes_read = 0, 0
        reason = await why_unusable(self._store, history, engine.record.fingerprint)
        if pages:
            founds: list[Prefetch] = []
            staging = self._turns.readiness.stage(session, history.hashes[:pages], engine)
            reports = Reports(session_id, lambda: engine, self._settings)
            telling = reports.during(staging, "load", then=founds.append)
            async with contextlib.aclosing(telling):
                async for progress in telling:
                    self._feed.working(session_id, None, progress)
                    yield progress
            (found,) = founds
            restorable = history.boundary if found.state and found.pages == pages else 0
            bytes_read, reason = found.bytes_read, found.reason
            if restorable:
                self._residency.placed(session_id, engine.record.boot_id)
        elif history.tokens and reason is None:
            reason = "it is shorter than a page, and only its tokens are stored"
        if request.strict and history.tokens and not restorable:
            raise NothingReused(
                f"none of the {len(history.tokens)} tokens of {session_id} can be restored: "
                f"{reason or 'no boundary was stored'}. The token log is intact; "
                "resume without strict to recompute."
            )
        resumed = Resumed(
            session_id=session_id,
            head=session.head,
            tokens=len(history.tokens),
            restorable_tokens=restorable,
            bytes_read=bytes_read,
            reason=reason,
            seconds=time.perf_counter() - started,
        )
        self._feed.resumed(resumed)
        yield resumed

    async def fork(
        self, session_id: str, request: ForkRequest, *, key: str | None = None
    ) -> Forked:
        """A new session with this one's history up to a snapshot or to a number of tokens. Copies
        nothing: it shares the pages and states.

        key: of idempotency; the fork that was made with it first is told of again
        Raises NotFound; BadRequest beyond the end; HeadMoved, KeyReused.
        """

        async def make(ids: list[str]) -> Forked:
            return await self.make_fork(session_id, request, ids[0])

        what = f"a fork of {session_id}"
        new_ids = [self._store.new_session_id(beside=session_id)]
        return await self._turns.claims.once(key, what, request, new_ids, make, Forked)

    async def made(self, new_id: str) -> Session | None:
        """The session that a request with a key has made under this id, if it has."""
        try:
            return await self._store.session(new_id)
        except NotFound:
            return None

    async def make_fork(self, session_id: str, request: ForkRequest, fork_id: str) -> Forked:
        """As `fork`, under this id; the session that has it already, if there is one."""
        if request.expected_head is not None and await self.made(fork_id) is None:
            await self.require_head(session_id, request.expected_head)
        if request.tokens is None:
            forked = await self._store.fork(
                session_id,
                snapshot_id=request.snapshot or request.expected_head or None,
                labels=request.labels,
                fork_id=fork_id,
            )
        else:
            session = await self._store.session(session_id)
            await self._turns.stateless.require_state(
                session, "forked at a number of tokens, only at a snapshot"
            )
            forked = await fork_at(
                self._store,
                self._turns,
                session,
                request.tokens,
                labels=request.labels,
                fork_id=fork_id,
            )
        at_head = request.tokens is None and request.snapshot is None
        if not at_head:
            at_head = forked.head == (await self._store.session(session_id)).head
        if at_head and forked.head is not None:
            self._residency.shared(session_id, forked.id)
        view = await self._view(forked, {})
        return Forked(**view.model_dump(), recompute_tokens=view.tokens - view.boundary)

    async def require_head(self, session_id: str, expected: str | None) -> None:
        """Raises HeadMoved, NotFound."""
        if expected is not None:
            require_head(await self._store.session(session_id), expected)

    async def set_labels(self, session_id: str, labels: Mapping[str, str]) -> SessionView:
        """Replaces all of them. Raises NotFound, InvalidLabels."""
        await self._store.set_labels(session_id, labels)
        return await self.get(session_id)

    async def delete(self, session_id: str, *, expected_head: str | None = None) -> None:
        """Drop the session; what no other session reaches is freed in the background. A turn that
        runs in it is ended first.

        expected_head: if given, nothing is done unless it is the head, and nobody writes
        Raises NotFound; HeadMoved, LeaseHeld.
        """
        if expected_head is None:
            await self._end_turn(session_id)
            await self._store.delete_session(session_id)
            self._turns.cancelling.end_deleted(session_id)  # one that has begun since
        else:
            async with self._turns.writing(session_id) as (session, _):
                require_head(session, expected_head)
                await self._store.delete_session(session_id)
        self._turns.outage.drop(session_id)
        self._residency.forget_servers(session_id)
        self._residency.take_written(session_id)
        self._feed.tell(session_id, Deleted())
        await give_up(self._pool, self._residency, session_id)

    async def _end_turn(self, session_id: str) -> None:
        """Cancel the turn that runs, wherever that is. One that does not end in a while, as its
        runtime may be dead, cannot be committed any more once the session is deleted."""
        self._turns.cancelling.end_deleted(session_id)
        # A session that cannot be read can be deleted, too.
        with contextlib.suppress(TimeoutError, NotFound, CorruptObject, VaultLocked, LeaseHeld):
            async with asyncio.timeout(ENDING):
                await self._turns.cancel(session_id)

    async def snapshot_view(self, snapshot: Snapshot) -> SnapshotView:
        """The snapshot as the API shows it."""
        (view,) = await self.snapshot_views([snapshot])
        return view

    async def snapshot_views(self, snapshots: Sequence[Snapshot]) -> list[SnapshotView]:
        labels = await self._store.labels([snapshot.id for snapshot in snapshots])
        return [await self._snapshot_view(one, labels[one.id]) for one in snapshots]

    async def _snapshot_view(self, snapshot: Snapshot, labels: dict[str, str]) -> SnapshotView:
        fingerprint = await self._store.fingerprint(snapshot.fingerprint_id)
        return SnapshotView(
            id=snapshot.id,
            parent=snapshot.parent,
            tokens=tokens_of(snapshot),
            boundary=snapshot.boundary,
            prompt_tokens=snapshot.meta.get("prompt_tokens"),
            boundaries=snapshot.boundaries(fingerprint.page_size),
            created_at=snapshot.created_at,
            workspace=snapshot.files,
            labels=labels,
        )

    async def _view(
        self,
        session: Session,
        kept: Mapping[str, int],
        alive: Collection[str] | None = None,
    ) -> SessionView:
        """kept: turns that wait for the store, from before `session` was read: who sees none left
        sees the head that has them all; alive: boot ids of the engines that are; looked up if None
        """
        head, residency = None, "empty"
        shown = self._turns.records.shown([session])
        if session.head is None:
            (turn,) = await shown
        else:
            reading, looking = self._store.snapshot(session.head), self._where(session.id, alive)
            head, residency, (turn,) = await asyncio.gather(reading, looking, shown)
        return await self._shown(session, kept, head, residency, turn)

    async def _shown(
        self,
        session: Session,
        kept: Mapping[str, int],
        head: Snapshot | None,
        residency: str,
        turn: RunningTurn | None,
    ) -> SessionView:
        if await self._turns.stateless.holds(session):
            residency = "none"
        return SessionView(
            id=session.id,
            head=session.head,
            tokens=0 if head is None else tokens_of(head),
            boundary=0 if head is None else head.boundary,
            residency=residency,
            labels=session.labels,
            forked_from=session.body.forked_from,
            created_at=session.body.created_at,
            tools=[tool["name"] for tool in session.body.meta.get("tools", ())],
            history=session.body.meta.get("history", "append"),
            kept_turns=kept.get(session.id, 0),
            turn=turn,
        )

    async def _where(self, session_id: str, alive: Collection[str] | None) -> str:
        if alive is None:
            known = self._residency.place(session_id) is not None
            alive = {record.boot_id for record in await self._pool.records()} if known else ()
        if self._is_held(session_id, alive):
            return "device"
        return await self._store.residency(session_id)

    def _is_held(self, session_id: str, alive: Collection[str]) -> bool:
        """By one of those engine starts, as far as this process knows."""
        place = self._residency.place(session_id)
        return place is not None and place.boot_id in alive


def _snapshot_id(text: str) -> str:
    """Raises InvalidId: what names a session names no snapshot."""
    if not is_snapshot_id(text):
        raise InvalidId(f"{text[:120]!r} is not a snapshot id.")
    return text
