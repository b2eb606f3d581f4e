"""Writes sessions in their stored form, as an engine that knows all forms would."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from writer import PAGE, RANKS, commit, next_draft

from state_store.archive import ArchiveReader
from state_store.archive.base import Archive
from state_store.codec import HEADER_BYTES, Frame
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint
from state_store.layout import KINDS, ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.payloads import Outcome, Payloads
from state_store.records import Commit, Session, Snapshot, SnapshotDraft
from state_store.store import StateStore

BYTES = {"kv": 1024, "state": 2048}
FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="bfloat16", conv_dtype="bfloat16",
    ssm_dtype="float32", page_size=PAGE, kv_payload_bytes=BYTES["kv"],
    state_payload_bytes=BYTES["state"], kv_segments=(Segment("bfloat16", BYTES["kv"]),),
    state_segments=(Segment("float32", BYTES["state"]),),
    tp_size=RANKS, draft="none", bigram=False, engine="e",
)  # fmt: skip


def payload_of(ref: ObjectRef, rank: int) -> bytes:
    """Numbers that a model might have computed; they follow from the object's name."""
    seed = [int(ref.page_hash[:8], 16), KINDS.index(ref.kind), rank]
    numbers = np.random.default_rng(seed).normal(size=BYTES[ref.kind] // 2)
    bits = numbers.astype(np.float32).view(np.uint32) >> 16
    if ref.kind == "kv":
        return bits.astype(np.uint16).tobytes()
    return (bits << 16).astype(np.uint32)[: BYTES["state"] // 4].tobytes()


class Author:
    """The engine side and the runtime side of one store prefix."""

    def __init__(
        self, store: StateStore, client: ObjectClient, prefix: str, archive: Archive | None = None
    ) -> None:
        self.store, self.client, self.prefix, self.archive = store, client, prefix, archive

    def names(self) -> list[ObjectNames]:
        return [ObjectNames(self.prefix, FINGERPRINT.id, rank) for rank in range(RANKS)]

    async def payloads(self, session: Session) -> list[Payloads]:
        """By rank."""
        form = await self.store.stored_form(session)
        made = []
        for rank in range(RANKS):
            names = ObjectNames(self.prefix, FINGERPRINT.id, rank)
            reader = None if self.archive is None else ArchiveReader(self.archive, names)
            made.append(Payloads(self.client, names, form=form, archive=reader))
        return made

    async def session(self, tenant: str, *turns: Iterable[int], **fields: object) -> Session:
        """A new session with these turns committed."""
        session = await self.store.create_session(tenant=tenant, fingerprint=FINGERPRINT, **fields)
        for turn in turns:
            await self.turn(session.id, turn)
        return await self.store.session(session.id)

    async def turn(self, session_id: str, tokens: Iterable[int]) -> Commit:
        draft = await self.draft(session_id, tokens)
        await self.put(draft)
        return await self.commit(draft)

    async def commit(self, draft: SnapshotDraft) -> Commit:
        return await commit(self.store, draft)

    async def draft(self, session_id: str, tokens: Iterable[int]) -> SnapshotDraft:
        session = await self.store.session(session_id)
        return await next_draft(
            self.store,
            session,
            tokens,
            await self.store.salt(session),
            FINGERPRINT,
            meta={"note": "written by the author"},
            economy=session.body.economy,
        )

    async def put(self, draft: SnapshotDraft, *, ttl: int = 300) -> None:
        session = await self.store.session(draft.session_id)
        for rank, payloads in enumerate(await self.payloads(session)):
            payloads.write(
                [(ref, _frame(payload_of(ref, rank))) for ref in refs_of(draft)], ttl=ttl
            )

    async def read(self, session: Session, snapshots: list[Snapshot]) -> list[Outcome]:
        """How reads of everything that the snapshots hold end, on all ranks. What is read in a
        class that keeps every bit is what was written, bit for bit."""
        outcomes = []
        for rank, payloads in enumerate(await self.payloads(session)):
            items = [
                (ref, _frame(bytes(BYTES[ref.kind]))) for one in snapshots for ref in one.objects
            ]
            found = payloads.read(items)
            for (ref, frame), outcome in zip(items, found, strict=True):
                if outcome is Outcome.OK and payloads._form.economy.encoding(ref.kind) == 0:
                    assert bytes(frame.payload) == payload_of(ref, rank)
            outcomes += found
        return outcomes


def refs_of(draft: SnapshotDraft) -> list[ObjectRef]:
    pages = [ObjectRef("kv", page) for page in draft.page_hashes]
    return pages + [ObjectRef("state", page) for page in draft.page_hashes[-1:]]


def _frame(payload: bytes) -> Frame:
    return Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(payload)))
