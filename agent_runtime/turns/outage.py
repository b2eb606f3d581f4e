"""Turns while the store is gone: said now, kept here, committed in order when it is back.

The engine still holds a session that it has just served, and this process its history, so the
session can go on. The tokens of such turns live in this process only, within a bound. When the
store answers again they are committed on the head that they were said on. If another writer has
moved it meanwhile they are refused and dropped: nothing is ever forced.
"""

from __future__ import annotations

import dataclasses
import logging
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent_runtime.errors import KeptTurnsRefused
from agent_runtime.messages.histories import History
from agent_runtime.messages.rewriting import Rewriting
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.committing import commit_turn
from agent_runtime.turns.idempotency import Answered
from agent_runtime.wire.turns import TurnRequest, TurnResult
from engine.pool import Engine
from state_store.errors import FilesMissing
from state_store.records import Lease, Session
from state_store.store import StateStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """What a turn needs to know, so that it need not ask: the session as of its head, its tenant's
    salt, the engine that holds it, and its history.

    rewriting: what the history is of, to be committed with the next turn; None if it is the head's
    """

    session: Session
    salt: str
    engine: Engine
    history: History
    rewriting: Rewriting | None = None

    def after(self, new_ids: list[int]) -> Standing:
        """The same when `new_ids` were said, and not stored."""
        record = self.engine.record
        tokens, hashes = self.history.extended(
            new_ids,
            page_size=record.page_size,
            salt=self.salt,
            bigram=record.fingerprint.bigram,
        )
        history = dataclasses.replace(self.history, tokens=tokens, hashes=hashes)
        return dataclasses.replace(self, history=history)


@dataclass(frozen=True)
class KeptTurn:
    """new_ids: prompt and answer; prompt_tokens: of the history, where generation began; meta: more
    that its snapshot is to keep; files: that go with it"""

    new_ids: list[int]
    prompt_tokens: int
    durability: str
    meta: dict[str, Any] = field(default_factory=dict)
    files: str | None = None


@dataclass
class _Kept:
    base: Standing  # what the first of the turns was said on
    turns: list[KeptTurn] = field(default_factory=list)

    @property
    def standing(self) -> Standing:
        """The session after all of the turns."""
        standing = self.base
        for turn in self.turns:
            standing = standing.after(turn.new_ids)
        return standing


class Outage:
    """What this process knows of sessions without the store, and what it keeps for it.

    caught_up: session id -> turns that were committed late, until a result has told of them
    lost_files: session id -> those of them whose files were gone, likewise
    refused:   session id -> why its kept turns were dropped, until an error has told of it
    """

    def __init__(
        self,
        store: StateStore,
        settings: RuntimeSettings,
        hold: Callable[[str, History], None],
    ) -> None:
        """hold: told of each snapshot that is committed late, with its history"""
        self._store = store
        self._settings = settings
        self._hold = hold
        self._standing: OrderedDict[str, Standing] = OrderedDict()
        self._answered: dict[str, Answered] = {}  # of sessions whose standing is known
        self._kept: dict[str, _Kept] = {}
        self.caught_up: dict[str, int] = {}
        self.lost_files: dict[str, list[str]] = {}
        self.refused: dict[str, KeptTurnsRefused] = {}

    def remember(self, standing: Standing) -> None:
        """A turn has been committed: `standing` is the session after it."""
        self._standing[standing.session.id] = standing
        self._standing.move_to_end(standing.session.id)
        while len(self._standing) > self._settings.standing_sessions:
            for session_id in self._standing:
                if session_id not in self._kept:
                    self._forget(session_id)
                    break
            else:
                return

    def drop(self, session_id: str) -> None:
        """Forget the session, and what was kept of it."""
        self._forget(session_id)
        self._kept.pop(session_id, None)
        self.caught_up.pop(session_id, None)
        self.lost_files.pop(session_id, None)

    def answered(self, session_id: str, turn: Answered) -> None:
        """A turn with a key was answered: should the store be gone when it is asked for again,
        nobody else can tell."""
        if session_id in self._standing:
            self._answered[session_id] = turn

    def answer(self, session_id: str, key: str, request: TurnRequest) -> TurnResult | None:
        """Of the session's last turn that had a key, if it was this one. Raises KeyReused."""
        found = self._answered.get(session_id)
        return None if found is None or found.key != key else found.again(request)

    def standing(self, session_id: str) -> Standing | None:
        """The session with all that was said; None if this process cannot know it."""
        return self._standing.get(session_id)

    def tenant_of(self, session_id: str) -> str | None:
        """Whose it is; None if this process cannot know it."""
        standing = self._standing.get(session_id)
        return None if standing is None else standing.session.body.tenant

    def kept(self, session_id: str) -> int:
        """Turns of the session that wait for the store."""
        kept = self._kept.get(session_id)
        return 0 if kept is None else len(kept.turns)

    def kept_turns(self) -> dict[str, int]:
        """The same of all sessions that have any, as of now."""
        return {session_id: len(kept.turns) for session_id, kept in self._kept.items()}

    def has_room(self, tokens: int) -> bool:
        """Whether a turn of up to `tokens` new tokens can be kept."""
        held = sum(len(t.new_ids) for kept in self._kept.values() for t in kept.turns)
        return held + tokens <= self._settings.kept_tokens

    def is_current(self, before: Standing) -> bool:
        """Whether nothing was said in the session, as far as this process knows, since `before`."""
        now = self._standing.get(before.session.id)
        return now is not None and now.history.tokens == before.history.tokens

    def keep(self, before: Standing, turn: KeptTurn) -> None:
        """before: the session when the turn began; it is current if there are kept turns"""
        session_id = before.session.id
        if self.is_current(before):
            # What had been kept before may have been committed while this turn ran.
            before = dataclasses.replace(self._standing[session_id], engine=before.engine)
        self._kept.setdefault(session_id, _Kept(before)).turns.append(turn)
        self._standing[session_id] = before.after(turn.new_ids)

    async def catch_up(self, session: Session, lease: Lease) -> Session:
        """Commit what was kept of `session`; the session after it.

        One whose files the store has lost meanwhile is committed with those of the turn before:
        its answer was given, and cannot be given again.
        Raises KeptTurnsRefused; what `commit_turn` raises, and what is not committed stays kept.
        """
        kept = self._kept.get(session.id)
        while kept is not None and kept.turns:
            turn, base = kept.turns[0], kept.base
            if session.head != base.session.head:
                if not await self._is_head(session, kept):
                    return session
                snapshot = await self._store.snapshot(session.head or "")
            else:
                after = base.after(turn.new_ids)
                try:
                    commit, _ = await commit_turn(
                        self._store,
                        base.engine,
                        session,
                        lease,
                        base.history,
                        turn.new_ids,
                        after.history.hashes,
                        prompt_tokens=turn.prompt_tokens,
                        durability=turn.durability,
                        settle_timeout=self._settings.settle_timeout,
                        boundary_interval=self._settings.boundary_interval,
                        meta=turn.meta,
                        files=turn.files,
                        rewriting=base.rewriting,
                    )
                except FilesMissing as error:
                    if turn.files is None:
                        raise
                    self._lose_files(session.id, kept, error)
                    continue
                snapshot = commit.snapshot
            said = base.after(turn.new_ids).history
            format_id = base.engine.record.fingerprint.id
            history = History(
                said.tokens, said.hashes, snapshot.boundary, format_id, snapshot.fingerprint_id
            )
            self._hold(snapshot.id, history)
            session = await self._store.session(session.id)
            kept.base = dataclasses.replace(base, session=session, history=history, rewriting=None)
            del kept.turns[0]
            self.caught_up[session.id] = self.caught_up.get(session.id, 0) + 1
            self._standing[session.id] = kept.standing
        self._kept.pop(session.id, None)
        return session

    def _forget(self, session_id: str) -> None:
        self._standing.pop(session_id, None)
        self._answered.pop(session_id, None)

    def _lose_files(self, session_id: str, kept: _Kept, error: FilesMissing) -> None:
        """Of the first kept turn."""
        turn = kept.turns[0]
        kept.turns[0] = dataclasses.replace(turn, files=None)
        why = (
            "a turn that was kept until the store was back is committed with the files of the "
            f"turn before: the store has lost its own, {(turn.files or '')[:12]}…"
        )
        self.lost_files.setdefault(session_id, []).append(why)
        logger.error("%s: %s (%s)", session_id, why, error)

    async def _is_head(self, session: Session, kept: _Kept) -> bool:
        """Whether the first kept turn is the head: its commit may have happened, though its reply
        was lost. If others went on from it, it is done, and the session is theirs.
        Raises KeptTurnsRefused for those that cannot be committed any more."""
        base, turn, left = kept.base, kept.turns[0], len(kept.turns)
        if session.head is not None:
            said = base.history.tokens + array("I", turn.new_ids)
            now = await self._store.tokens(session.head)
            if now == said:
                return True
            left -= now[: len(said)] == said
        self.drop(session.id)
        if not left:
            self.caught_up[session.id] = 1
            return False
        raise KeptTurnsRefused(
            f"turns of {session.id} were answered while the store was gone, after head "
            f"{base.session.head or 'empty'}. Another writer has moved it to "
            f"{session.head or 'empty'} meanwhile: {left} are not committed, and are dropped. Read "
            "the session again; fork it at the old head to say them once more."
        )
