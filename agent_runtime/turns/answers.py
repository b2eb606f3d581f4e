"""The answer to a turn that was given before, to who asks again with the same idempotency key.

    record with the result ── commit, the snapshot has key and result ── answer noted ── record ends
                           1                                          2

A runtime that died at 1 has committed nothing: the turn is run again. At 2 the turn is found by the
key in its snapshot; by the record, if an equal snapshot was there before, which keeps what it had.
A key may be taken for another request once it has expired, so all of them tell the request, too.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from agent_runtime.messages.rewriting import Rewriting
from agent_runtime.noted import noted
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.idempotency import digest_of
from agent_runtime.turns.records import TurnRecord, TurnRecords
from agent_runtime.wire.turns import TurnRequest, TurnResult
from state_store.records import Session, Snapshot
from state_store.store import StateStore

_STEP = 16  # snapshots that are read at once: the turn that is looked for is one of the last
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
        return meta_of(record.key, record.request, result)

    async def give(
        self, session: Session, key: str | None, request: TurnRequest, result: TurnResult
    ) -> None:
        """After the commit. request: as it came"""
        if key is not None and result.snapshot is not None:
            name, packed = _name(key, request), result.model_dump_json().encode()
            await self._store.session_notes.put(session, name, packed, ttl=self._ttl, happened=True)

    async def given(self, session: Session, key: str, request: TurnRequest) -> TurnResult | None:
        found = await self._store.session_notes.get(session, _name(key, request))
        if found is None:
            return None
        result = noted(TurnResult, found, f"the answer that a turn of {session.id} was given")
        return result.model_copy(update={"replayed": True})

    async def found(self, session: Session, key: str, request: TurnRequest) -> TurnResult | None:
        """As `given`, also of a turn that was committed and never answered; by who holds the
        lease. It is `given` from now on."""
        result = await self.given(session, key, request)
        if result is None and session.head is not None:
            result = await self._recorded(session, key, request)
            result = result or await self._in_history(session, key, request)
            if result is not None:
                await self.give(session, key, request, result)
        return result

    async def _recorded(
        self, session: Session, key: str, request: TurnRequest
    ) -> TurnResult | None:
        record = await self._records.read(session)
        if record is None or record.key != key or record.result is None:
            return None
        if digest_of(record.request) != digest_of(request):
            return None
        head = await self._store.snapshot(session.head or "")
        if head.parent not in (record.head, *record.onto):
            return None
        said: list[int] = record.result["token_ids"]
        log = await self._store.tokens(head.id)
        if said and list(log[-len(said) :]) != said:
            return None
        return _answer(head, record.result)

    async def _in_history(
        self, session: Session, key: str, request: TurnRequest
    ) -> TurnResult | None:
        """Of what was committed since the key was new, last first."""
        oldest = time.time() - self._ttl
        at, asked = session.head, digest_of(request)
        while at is not None:
            history = await self._store.ancestors(at, most=_STEP)
            for snapshot in reversed(history):
                if snapshot.created_at < oldest:
                    return None
                if (snapshot.meta.get("key"), snapshot.meta.get("request")) == (key, asked):
                    kept: dict[str, Any] = snapshot.meta["result"]
                    tokens = [] if kept["engine"] is None else await self._store.tokens(snapshot.id)
                    said = list(tokens[kept["usage"]["prompt_tokens"] :])
                    return _answer(snapshot, kept | {"token_ids": said})
            at = history[0].parent
        return None


def meta_of(key: str | None, request: TurnRequest, result: TurnResult) -> dict[str, Any]:
    """What the snapshot of a turn is to keep: its token ids are in its log."""
    if key is None:
        return {}
    kept = result.model_dump(mode="json", exclude=_KEPT_ELSEWHERE)
    return {"key": key, "request": digest_of(request), "result": kept}


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


def _name(key: str, request: TurnRequest) -> str:
    """Its note lives a little longer than the claim of the key."""
    asked = f"{key}\n{digest_of(request)}"
    return f"answer:{hashlib.sha256(asked.encode()).hexdigest()}"
