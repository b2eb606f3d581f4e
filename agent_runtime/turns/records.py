"""What is noted of a turn while it runs, so that one whose runtime died can be run again.

    lease ── record ── generate ── commit ── record is removed ── lease is given back
               └─ a runtime that dies in between leaves it: the turn is `interrupted`

A record speaks of the head that its turn began on. When the session has another, the turn was
committed, or somebody else went on, and the record means nothing. It is removed before a rewind.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from agent_runtime.noted import noted
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.turns import RunningTurn, TurnRequest
from state_store.errors import CorruptObject
from state_store.records import Session
from state_store.store import StateStore

_NAME = "turn"

logger = logging.getLogger(__name__)


class TurnRecord(BaseModel):
    """A turn that has begun.

    owner:  the runtime that runs it, as its lease says
    head:   of the session when it began, None for the first turn
    key:    its idempotency key
    result: what was to be answered, from just before the commit on, for a turn that has a key
    onto:   snapshots that the turn's own may be committed with, as its parent, in the head's place:
            see `messages/rewriting.py`; none if it goes on from `head`
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    request: TurnRequest
    since: float
    owner: str
    head: str | None
    key: str | None = None
    result: dict[str, Any] | None = None
    onto: tuple[str, ...] = ()


class TurnRecords:
    """One for each session at most: only who holds its lease writes it."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._ttl = settings.request_ttl

    def new(
        self, session: Session, request: TurnRequest, *, owner: str, key: str | None
    ) -> TurnRecord:
        """Of a turn that begins now; it is to be written."""
        return TurnRecord(
            id=new_turn_id(),
            request=request,
            since=time.time(),
            owner=owner,
            head=session.head,
            key=key,
        )

    async def write(self, session: Session, record: TurnRecord, *, happened: bool = False) -> None:
        """happened: what it says of the turn has. Raises QuotaExceeded otherwise."""
        packed = record.model_dump_json(exclude_unset=True).encode()
        assert packed.startswith(_begins(record.id)), "a record is found again by its id"
        await self._store.session_notes.put(
            session, _NAME, packed, ttl=self._ttl, happened=happened
        )

    async def end(self, session: Session, turn_id: str) -> None:
        """The session's record may be of another turn: of who took over when the lease was lost."""
        await self._store.session_notes.delete(session, _NAME, beginning=_begins(turn_id))

    async def drop_past(self, session: Session) -> None:
        """Remove one of another head than the session's: its turn is committed or given up, and is
        to be neither when the session comes back to where it began. By who holds the lease."""
        record = await self.read(session)
        if record is not None and record.head != session.head:
            await self.end(session, record.id)

    async def read(self, session: Session) -> TurnRecord | None:
        """The last one that was not removed, of whatever head."""
        found = await self._store.session_notes.get(session, _NAME)
        return None if found is None else _record(session, found)

    async def shown(self, sessions: Sequence[Session]) -> list[RunningTurn | None]:
        """Of each of a tenant's sessions the turn that runs, or that was interrupted; None if
        there is none."""
        notes = await self._store.session_notes.get_all(sessions, _NAME)
        records: dict[str, TurnRecord] = {}
        for session, note in zip(sessions, notes, strict=True):
            try:
                if note is not None:
                    records[session.id] = _record(session, note)
            except CorruptObject as error:  # it must not hide the session, nor the others
                logger.error("%s", error)
        writers = dict(zip(records, await self._store.writers(list(records)), strict=True))
        return [_shown(one, records.get(one.id), writers.get(one.id)) for one in sessions]


def new_turn_id() -> str:
    return f"turn-{secrets.token_hex(8)}"


def _shown(session: Session, record: TurnRecord | None, writer: str | None) -> RunningTurn | None:
    if record is None or record.head != session.head:
        return None
    return RunningTurn(
        id=record.id,
        state="running" if writer == record.owner else "interrupted",
        since=record.since,
        owner=record.owner,
        messages=record.request.messages,
    )


def _record(session: Session, stored: bytes) -> TurnRecord:
    return noted(TurnRecord, stored, f"the record of the turn that {session.id} runs")


def _begins(turn_id: str) -> bytes:
    """What the record of a turn begins with, and of no other."""
    return f'{{"id":"{turn_id}",'.encode()
