"""Versions of sessions: many forks at once, going back, comparing, and moving to other stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import BadRequest, StillRunning, TorporError
from agent_runtime.feed.posting import Feed
from agent_runtime.http.status import problem_of
from agent_runtime.sessions.effects_abroad import LedgerAbroad
from agent_runtime.sessions.listing import place_of, written
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.expected import require_head
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.session_events import Rewound
from agent_runtime.wire.sessions import Forked, ForkRequest, SessionView
from agent_runtime.wire.versions import (
    BranchView,
    DiffView,
    Fork,
    Forks,
    ForksRequest,
    RewindRequest,
    TreeView,
)
from engine.errors import EngineError
from state_store.errors import StoreError
from state_store.records import Session, Snapshot
from state_store.store import StateStore

_AT_A_TIME = 8  # forks that are made
_LOOK_AGAIN = 0.05  # seconds, while somebody else makes a fork
_LOOKS = 20  # at a fork, before it is left to who makes it


class Versions:
    """Takes ids of sessions that whoever asks may see; other ids are looked at here."""

    def __init__(
        self,
        store: StateStore,
        sessions: Sessions,
        turns: Turns,
        settings: RuntimeSettings,
        feed: Feed,
    ) -> None:
        self._feed = feed
        self._store = store
        self._sessions = sessions
        self._turns = turns
        self._settings = settings

    async def forks(
        self, session_id: str, request: ForksRequest, *, key: str | None = None
    ) -> Forks:
        """As many forks as asked for; one that cannot be made leaves the others. All are at the
        head that the session has now.

        key: of idempotency; the forks that were made with it first are told of again
        Raises NotFound, HeadMoved, KeyReused: then none was made.
        """
        one = ForkRequest.model_validate(request.model_dump(exclude={"count", "expected_head"}))
        new_ids = [self._store.new_session_id(beside=session_id) for _ in range(request.count)]

        async def make(ids: list[str]) -> Forks:
            begun = [fork for one in ids if (fork := await self._sessions.made(one)) is not None]
            if begun:  # by a request with the key that was cut off: all are where those are
                head = begun[0].body.forked_at
            else:
                await self._sessions.require_head(session_id, request.expected_head)
                head = (await self._store.session(session_id)).head
            at = one
            if one.snapshot is None and one.tokens is None and head is not None:
                at = one.model_copy(update={"snapshot": head})
            places = asyncio.Semaphore(_AT_A_TIME)

            async def made(fork_id: str) -> Fork:
                async with places:
                    try:
                        fork = await self._made_once(session_id, at, fork_id)
                    except StillRunning:  # no answer to note: another request has one soon
                        raise
                    except (TorporError, EngineError, StoreError) as error:
                        return Fork(problem=problem_of(error))
                return Fork(fork=fork)

            # All of them, before one is said to be made still.
            making = await asyncio.gather(*map(made, ids), return_exceptions=True)
            forks: list[Fork] = []
            for told in making:
                if isinstance(told, BaseException):
                    raise told
                forks.append(told)
            return Forks(forks=forks)

        what = f"forks of {session_id}"
        once = self._turns.claims.once
        return await once(key, what, request, new_ids, make, Forks, lasts=_lasts)

    async def _made_once(self, session_id: str, at: ForkRequest, fork_id: str) -> Forked:
        """One that another request with the key makes just now is waited for a little: of several
        that make the same forks at once, each would find some that it must leave to the others."""
        for _ in range(_LOOKS):
            with contextlib.suppress(StillRunning):
                return await self._sessions.make_fork(session_id, at, fork_id)
            await asyncio.sleep(_LOOK_AGAIN)
        return await self._sessions.make_fork(session_id, at, fork_id)

    async def rewind(self, session_id: str, request: RewindRequest) -> SessionView:
        """Move the session's head back. What no session reaches any more is let go.

        Raises BadRequest for more turns than there are, NotFound for a snapshot that is not in the
        history, HeadMoved, LeaseHeld while a turn runs.
        """
        async with self._turns.writing(session_id) as (session, lease):
            session = await self._turns.outage.catch_up(session, lease)
            require_head(session, request.expected_head)
            place = request.snapshot or None
            if request.turns is not None:
                place = await self._turns_back(session, request.turns)
            await self._turns.records.drop_past(session)  # it would be alive again
            await self._store.rewind(session_id, place, lease=lease)
            self._turns.forget(session_id)
        view = await self._sessions.get(session_id)
        self._feed.tell(session_id, Rewound(head=view.head))
        return view

    async def diff(self, session_id: str, other: str) -> DiffView:
        """other: a session, or a snapshot. Raises NotFound."""
        tenant = current_tenant(self._settings.tenant)
        diff = await self._store.diff(session_id, other, tenant=tenant)
        sessions, ancestor = self._sessions, diff.ancestor
        return DiffView(
            ancestor=None if ancestor is None else await sessions.snapshot_view(ancestor),
            left=await sessions.snapshot_views(diff.left),
            right=await sessions.snapshot_views(diff.right),
            first_difference=diff.first_difference,
            common_tokens=diff.common_tokens,
            left_tokens=diff.left_tokens,
            right_tokens=diff.right_tokens,
        )

    async def tree(self, session_id: str, *, limit: int, after: str | None = None) -> TreeView:
        """A page of the session's lineage. Raises NotFound, and BadRequest for a place that is
        none."""
        tree = await self._store.page_of_tree(session_id, limit=limit, after=place_of(after))
        return TreeView(
            snapshots=await self._sessions.snapshot_views(tree.snapshots),
            sessions=[
                BranchView(
                    id=one.id,
                    head=one.head,
                    forked_from=one.body.forked_from,
                    labels=one.labels,
                    created_at=one.body.created_at,
                )
                for one in tree.sessions
            ],
            next=None if tree.end is None else written(tree.end),
        )

    async def export(self, session_id: str, path: Path) -> None:
        """Write the session to a new file, see docs/export-format.md. Raises NeedsState, and what
        `StateStore.export_session` raises."""
        session = await self._store.session(session_id)
        await self._turns.stateless.require_state(session, "exported")
        await self._store.export_session(session_id, path, effects=LedgerAbroad())

    async def take_in(self, path: Path) -> SessionView:
        """A new session from an exported file. Raises what `StateStore.import_session` raises."""
        tenant = current_tenant(self._settings.tenant)
        session = await self._store.import_session(path, tenant=tenant, effects=LedgerAbroad())
        return await self._sessions.get(session.id)

    async def _turns_back(self, session: Session, turns: int) -> str | None:
        history: Sequence[Snapshot] = (
            [] if session.head is None else await self._store.ancestors(session.head)
        )
        if turns > len(history):
            raise BadRequest(
                f"{session.id} has {len(history)} turns; it cannot go back {turns}. It is "
                "unchanged."
            )
        return history[-turns - 1].id if turns < len(history) else None


def _lasts(answer: Forks) -> bool:
    """Whether no fork failed in a way that may pass."""
    problems = [fork.problem for fork in answer.forks if fork.problem is not None]
    return all(one.status < 500 and one.status != 429 for one in problems)
