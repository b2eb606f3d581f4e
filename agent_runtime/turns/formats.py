"""Which state format the engine must have that takes a session's turn.

    1. that of the head's state
    2. the one that the session began with
    3. another one of the same model: another SGLang, other ranks, with or without MTP

Only in the last case, or where the first is gone and the second is not, is the history computed
again, from the token log. The turn says so, and its snapshot has the format of the engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from agent_runtime.messages.histories import History
from engine.records import EngineRecord
from state_store.compatibility import compatibility
from state_store.errors import NotFound
from state_store.fingerprint import Fingerprint
from state_store.records import Session
from state_store.store import StateStore

_REMEMBERED = 1 << 14  # snapshots


class Formats:
    """Chooses formats, and remembers those of heads."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._of: OrderedDict[str, str] = OrderedDict()

    async def wanted(self, session: Session, records: Sequence[EngineRecord]) -> str:
        """records: of all live engines. The id of the head's own if no engine has one that will
        do."""
        first = session.body.fingerprint_id
        there = {r.fingerprint.id: r.fingerprint for r in records if not r.draining}
        if there.keys() <= {first}:
            return first
        now = first if session.head is None else await self._of_snapshot(session.head, first)
        for format_id in (now, first):
            if format_id in there:
                return format_id
        stored = await self._store.fingerprint(now)
        for format_id, fingerprint in sorted(there.items()):
            if compatibility(stored, fingerprint).verdict == "reprefill":
                await self._store.remember_fingerprint(fingerprint)
                return format_id
        return now

    async def _of_snapshot(self, snapshot_id: str, otherwise: str) -> str:
        format_id = self._of.get(snapshot_id)
        if format_id is None:
            try:
                format_id = (await self._store.snapshot(snapshot_id)).fingerprint_id
            except NotFound:
                return otherwise  # the turn itself will say what that means
            self._of[snapshot_id] = format_id
            while len(self._of) > _REMEMBERED:
                self._of.popitem(last=False)
        return format_id


async def why_unusable(store: StateStore, history: History, engine: Fingerprint) -> str | None:
    """Why an engine of that fingerprint can use nothing of the state stored with `history`; None if
    the format is its own."""
    if history.stored_as == history.format_id:
        return None
    stored = await store.fingerprint(history.stored_as)
    differ = [reason.difference for reason in compatibility(stored, engine).reasons]
    return f"the stored state is of another format ({'; '.join(differ)})"
