"""The answer to a turn that was given before, to who asks again with the same idempotency key.

    record with the result ── commit, the snapshot has key and result ── answer noted ── record ends
                           1                                          2

A runtime that died at 1 has committed nothing: the turn is run again. At 2 the turn is found by the
key in its snapshot; by the record, if an equal snapshot was there before, which keeps what it had.
"""

from __future__ import annotations

import hashlib
from typing import Any

from agent_runtime.messages.rewriting import Rewriting
from agent_runtime.noted import noted
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.records import TurnRecord, TurnRecords
from agent_runtime.wire.turns import TurnResult
from state_store.records import Session, Snapshot
from state_store.store import StateStore

_UNCONFIRMED = "the runtime died right after the commit, and what was confirmed is not known"
_OF_THE_COMMIT = {
    "snapshot", "parent", "boundary", "durable", "not_durable_because", "bytes_written",
}  # fmt: skip
_KEPT_ELSEWHERE = _OF_THE_COMMIT | {"token_ids"}


class Answers:
    """Answers are kept with the session that they were given in, and as long as their keys."""

    def __init__(self, store: StateStore, records: TurnRecords, settings: RuntimeSettings) -> None:
        self._store = store
        self._records = records
        self._ttl = settings.request_ttl

    async def prepare(
        self,
        session: Session,
        record: TurnRecord,
        result: TurnResult,
        rewriting: Rewriting | None = None,
    ) -> dict[str, Any]:
        """Before the commit: what its snapshot is to keep. rewriting: committed with the turn"""
        if record.key is None:
            return {}
        noted: dict[str, Any] = {"result": result.model_dump(mode="json", exclude=_OF_THE_COMMIT)}
        if rewriting is not None:
            drafts = (rewriting.draft, rewriting.without)
            noted["onto"] = tuple([await self._store.identify(draft) for draft in drafts])
        await self._records.write(session, record.model_copy(update=noted), happened=True)
        return meta_of(record.key, result)

    async def give(self, session: Session, key: str | None, result: TurnResult) -> None:
        """After the commit."""
        if key is not None and result.snapshot is not None:
            packed = result.model_dump_json().encode()
            await self._store.session_notes.put(
                session, _name(key), packed, ttl=self._ttl, happened=True
            )

    async def given(self, session: Session, key: str) -> TurnResult | None:
        found = await self._store.session_notes.get(session, _name(key))
        if found is None:
            return None
        result = noted(TurnResult, found, f"the answer that a turn of {session.id} was given")
        return result.model_copy(update={"replayed": True})

    async def found(self, session: Session, key: str) -> TurnResult | None:
        """As `given`, also of a turn that was committed and never answered; by who holds the
        lease. It is `given` from now on."""
        result = await self.given(session, key)
        if result is None and session.head is not None:
            result = await self._recorded(session, key) or await self._in_history(session, key)
            if result is not None:
                await self.give(session, key, result)
        return result

    async def _recorded(self, session: Session, key: str) -> TurnResult | None:
        record = await self._records.read(session)
        if record is None or record.key != key or record.result is None:
            return None
        head = await self._store.snapshot(session.head or "")
        if head.parent not in (record.head, *record.onto):
            return None
        said: list[int] = record.result["token_ids"]
        log = await self._store.tokens(head.id)
        if said and list(log[-len(said) :]) != said:
            return None
        return _answer(head, record.result)

    async def _in_history(self, session: Session, key: str) -> TurnResult | None:
        for snapshot in reversed(await self._store.ancestors(session.head or "")):
            if snapshot.meta.get("key") == key:
                kept: dict[str, Any] = snapshot.meta["result"]
                tokens = [] if kept["engine"] is None else await self._store.tokens(snapshot.id)
                said = list(tokens[kept["usage"]["prompt_tokens"] :])
                return _answer(snapshot, kept | {"token_ids": said})
        return None


def meta_of(key: str | None, result: TurnResult) -> dict[str, Any]:
    """What the snapshot of a turn is to keep: its token ids are in its log."""
    if key is None:
        return {}
    return {"key": key, "result": result.model_dump(mode="json", exclude=_KEPT_ELSEWHERE)}


def _answer(snapshot: Snapshot, kept: dict[str, Any]) -> TurnResult:
    return TurnResult.model_validate(kept | {"parent": snapshot.parent}).model_copy(
        update={
            "snapshot": snapshot.id,
            "boundary": snapshot.boundary,
            "durable": "memory",
            "not_durable_because": _UNCONFIRMED,
            "replayed": True,
        }
    )


def _name(key: str) -> str:
    return f"answer:{hashlib.sha256(key.encode()).hexdigest()}"
