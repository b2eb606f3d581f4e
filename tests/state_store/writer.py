"""Writes sessions the way an engine and a runtime do, with small pages and no model."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from state_store.codec import HEADER_BYTES, Frame, seal
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint
from state_store.identity import page_hashes
from state_store.layout import KINDS, Kind, ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.records import Commit, Lease, Session, SnapshotDraft
from state_store.store import StateStore

PAGE = 4  # tokens
RANKS = 2
PAYLOAD: dict[Kind, int] = {"kv": 96, "state": 160}  # bytes
TENANT = "default"
FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="bfloat16", conv_dtype="bfloat16",
    ssm_dtype="float32", page_size=PAGE, kv_payload_bytes=PAYLOAD["kv"],
    state_payload_bytes=PAYLOAD["state"],
    kv_segments=(Segment("bfloat16", PAYLOAD["kv"]),),
    state_segments=(Segment("float32", 128), Segment("bfloat16", PAYLOAD["state"] - 128)),
    tp_size=RANKS, draft="none", bigram=False, engine="e",
)  # fmt: skip


def frame_of(names: ObjectNames, kind: Kind, page_hash: str, payload: bytes | None = None) -> bytes:
    """A sealed object; its payload follows from its name unless given."""
    if payload is None:
        pattern = f"{kind} {names.rank} {page_hash}".encode()
        payload = (pattern * 4)[: PAYLOAD[kind]]
    frame = bytearray(HEADER_BYTES + len(payload))
    frame[HEADER_BYTES:] = payload
    whole = memoryview(frame)
    place = Frame(whole[:HEADER_BYTES], whole[HEADER_BYTES:])
    seal(place, names=names, ref=ObjectRef(kind, page_hash))
    return bytes(frame)


class Writer:
    """The engine side and the runtime side of one store prefix."""

    def __init__(self, store: StateStore, client: ObjectClient, prefix: str) -> None:
        self.store = store
        self.client = client
        self.prefix = prefix

    async def session(self, *turns: Sequence[int]) -> Session:
        """A new session with these turns committed."""
        session = await self.store.create_session(tenant=TENANT, fingerprint=FINGERPRINT)
        for turn in turns:
            await self.turn(session.id, turn)
        return await self.store.session(session.id)

    async def turn(self, session_id: str, tokens: Iterable[int]) -> Commit:
        """Store what a turn over `tokens` computes, and commit it."""
        draft = await self.draft(session_id, tokens)
        self.put(draft)
        return await commit(self.store, draft)

    async def rewind(self, session_id: str, snapshot_id: str | None) -> Session:
        lease = await self.lease(session_id)
        try:
            return await self.store.rewind(session_id, snapshot_id, lease=lease)
        finally:
            await self.store.release(lease)

    async def lease(self, session_id: str, ttl: float = 30.0) -> Lease:
        return await self.store.acquire(session_id, ttl=ttl, owner="writer")

    async def draft(self, session_id: str, tokens: Iterable[int]) -> SnapshotDraft:
        """What a turn over `tokens` after the session's head would commit."""
        session = await self.store.session(session_id)
        salt = (await self.store.tenant(TENANT)).salt
        return await next_draft(self.store, session, tokens, salt, FINGERPRINT)

    async def instead_of(self, session: Session, kept: int, tokens: Iterable[int]) -> SnapshotDraft:
        """Of `tokens` after the first `kept` turns, to be committed in the head's place."""
        history = await self.store.ancestors(session.head or "")
        parent = history[kept - 1] if kept else None
        before = await self.store.tokens(parent.id) if parent else array("I")
        place = (session.id, before, parent.boundary if parent else 0)
        salt = (await self.store.tenant(TENANT)).salt
        after = {"parent": parent and parent.id, "replaces": session.head}
        return draft_after(*place, tokens, salt, FINGERPRINT, **after)

    async def going_on(self, draft: SnapshotDraft, tokens: Iterable[int]) -> SnapshotDraft:
        """A turn over `tokens`, to be committed with the draft that it goes on from."""
        before = await self.store.tokens(draft.parent) if draft.parent else array("I")
        place = (draft.session_id, before + draft.new_tokens, draft.boundary)
        salt = (await self.store.tenant(TENANT)).salt
        return draft_after(*place, tokens, salt, FINGERPRINT, parent=None, onto=draft)

    def put(self, draft: SnapshotDraft, *, ttl: int = 300) -> None:
        """Store every page of a draft and a state at its end, on all ranks."""
        self.client.put(
            [
                (names.key(ref), memoryview(frame_of(names, ref.kind, ref.page_hash)))
                for names in self.names()
                for ref in objects_of(draft)
            ],
            ttl=ttl,
        )

    def names(self) -> list[ObjectNames]:
        return [ObjectNames(self.prefix, FINGERPRINT.id, rank) for rank in range(RANKS)]

    async def problems(self) -> list[str]:
        return [str(one) for one in (await self.store.check_integrity()).problems]

    async def history(self, session_id: str) -> list[int]:
        head = (await self.store.session(session_id)).head
        return list(await self.store.tokens(head)) if head else []


async def next_draft(
    store: StateStore,
    session: Session,
    tokens: Iterable[int],
    salt: str,
    fingerprint: Fingerprint,
    **fields: Any,
) -> SnapshotDraft:
    """What a turn over `tokens` after the session's head would commit, with all of its pages."""
    before = await store.tokens(session.head) if session.head else array("I")
    base = (await store.snapshot(session.head)).boundary if session.head else 0
    place = (session.id, before, base)
    return draft_after(*place, tokens, salt, fingerprint, parent=session.head, **fields)


def draft_after(
    session_id: str,
    before: array[int],
    base: int,
    tokens: Iterable[int],
    salt: str,
    fingerprint: Fingerprint,
    **fields: Any,
) -> SnapshotDraft:
    """Of `tokens` after those that came before, with all pages from after `base` tokens on."""
    new = array("I", tokens)
    hashes = page_hashes(before + new, PAGE, salt=salt, bigram=False)
    return SnapshotDraft(
        session_id=session_id,
        new_tokens=new,
        total_tokens=len(before) + len(new),
        boundary=len(hashes) * PAGE,
        boundary_hash=hashes[-1] if hashes else None,
        page_hashes=tuple(hashes[base // PAGE :]),
        fingerprint_id=fingerprint.id,
        ranks=RANKS,
        **fields,
    )


async def commit(store: StateStore, draft: SnapshotDraft) -> Commit:
    """As a writer of its own."""
    lease = await store.acquire(draft.session_id, ttl=30, owner="writer")
    try:
        return await store.commit(draft, lease=lease, durability="memory")
    finally:
        await store.release(lease)


def objects_of(draft: SnapshotDraft) -> list[ObjectRef]:
    kv, state = KINDS
    pages = [ObjectRef(kv, page) for page in draft.page_hashes]
    ends = [draft.page_hashes[count - 1] for count in draft.checkpoints]
    return pages + [ObjectRef(state, page) for page in [*ends, *draft.page_hashes[-1:]]]


async def find_sessions(store: StateStore, tenant: str, labels: dict[str, str]) -> list[Session]:
    """Those that carry all of `labels`, newest first."""
    found, after = [], None
    while True:
        page = await store.page_of_sessions(tenant, limit=100, after=after, labels=labels)
        found += page.sessions
        after = page.end
        if after is None:
            return found


class Trips:
    """Every round trip of a store's control connection, numbered from 1, and what happens there.

    `crash_at` makes the process dead from that trip on: `before` the server sees it, `after`, or
    `amid` the commands that go out with it, of which the server has then done the first half.
    `between` runs something else before that trip.
    """

    def __init__(self, store: StateStore) -> None:
        self.count = 0
        self.crash_at: tuple[str, int] | None = None
        self.between: tuple[int, object] | None = None
        redis = store._control.redis
        execute, pipeline = redis.execute_command, redis.pipeline

        async def command(*arguments, **options):
            return await self._trip(lambda: execute(*arguments, **options))

        def make_pipeline(*arguments, **options):
            made = pipeline(*arguments, **options)
            run = made.execute

            async def execute(**options):
                if self.crash_at == ("amid", self.count + 1):
                    del made.command_stack[len(made.command_stack) // 2 :]
                return await self._trip(lambda: run(**options))

            made.execute = execute
            return made

        redis.execute_command, redis.pipeline = command, make_pipeline

    async def _trip(self, send):
        self.count += 1
        if self.between is not None and self.between[0] == self.count:
            _, action = self.between
            self.between = None
            await action()
        when, at = self.crash_at or ("before", 1 << 30)
        if self.count > at or (self.count == at and when == "before"):
            raise ConnectionError("crash before the server saw it")
        reply = await send()
        if self.count == at:
            raise ConnectionError("crash after the server did it")
        await asyncio.sleep(0)
        return reply
