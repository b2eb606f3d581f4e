"""A session of any length whose state no model ever computed, written straight into the store.

A million tokens take a laptop hours to prefill. What comes after (storing, restoring, going on)
does not depend on what the numbers are, only that they are numbers; so they are drawn at random.
The tokens, the names of pages, the objects and the commit are the real ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from agent_runtime.errors import SetupError
from engine.records import EngineRecord
from state_store.codec import HEADER_BYTES, Frame
from state_store.fingerprint import Fingerprint
from state_store.identity import page_hashes
from state_store.layout import PART_BYTES, Kind, ObjectNames, ObjectRef, parts_of
from state_store.objects import ObjectClient
from state_store.payloads import Item, Payloads
from state_store.records import Session, Snapshot, SnapshotDraft
from state_store.store import StateStore

_TTL = 3600  # seconds until the commit pins what was written
_PAGES_AT_ONCE = 32
_SCALE = 0.1


async def write_session(
    store: StateStore,
    redis_url: str,
    record: EngineRecord,
    tokens: array[int],
    *,
    tenant: str,
) -> tuple[Session, Snapshot]:
    """Store pages and a state for all whole pages of `tokens`, and commit them as one turn.

    Raises SetupError for an engine of several ranks or whose pools are not float32.
    """
    fingerprint = record.fingerprint
    _require_float32(fingerprint)
    salt = (await store.tenant(tenant)).salt
    hashes = page_hashes(tokens, record.page_size, salt=salt, bigram=fingerprint.bigram)
    session = await store.create_session(
        tenant=tenant, fingerprint=fingerprint, meta={"system": None, "tools": []}
    )
    payloads = Payloads(
        ObjectClient(redis_url, timeout=60.0), ObjectNames("torpor", fingerprint.id, 0)
    )
    try:
        for items in _items("kv", hashes, fingerprint.kv_payload_bytes):
            payloads.write(items, ttl=_TTL)
        for items in _items("state", hashes[-1:], fingerprint.state_payload_bytes):
            payloads.write(items, ttl=_TTL)
    finally:
        payloads.close()
    draft = SnapshotDraft(
        session_id=session.id,
        parent=None,
        new_tokens=tokens,
        total_tokens=len(tokens),
        boundary=len(hashes) * record.page_size,
        boundary_hash=hashes[-1],
        page_hashes=tuple(hashes),
        fingerprint_id=fingerprint.id,
        ranks=1,
    )
    lease = await store.acquire(session.id, ttl=600, owner="bench")
    commit = await store.commit(draft, lease=lease, durability="memory")
    await store.release(lease)
    return session, commit.snapshot


def _require_float32(fingerprint: Fingerprint) -> None:
    dtypes = {s.dtype for s in (*fingerprint.kv_segments, *fingerprint.state_segments)}
    if dtypes != {"float32"} or fingerprint.tp_size != 1:
        raise SetupError(
            f"synthetic state is made of float32 numbers for one rank; this engine has "
            f"{', '.join(sorted(dtypes))} on {fingerprint.tp_size}. Use the demo profile."
        )


def _items(kind: Kind, hashes: Sequence[str], payload_bytes: int) -> Iterator[list[Item]]:
    """All objects of these pages or states, some at a time, in frames that are used again."""
    random = np.random.default_rng(0)
    for start in range(0, len(hashes), _PAGES_AT_ONCE):
        some = hashes[start : start + _PAGES_AT_ONCE]
        numbers = random.standard_normal((len(some), payload_bytes // 4), dtype=np.float32)
        numbers *= _SCALE
        yield [
            (ObjectRef(kind, page_hash, part), frame)
            for page_hash, row in zip(some, numbers, strict=True)
            for part, frame in enumerate(_frames(row, payload_bytes))
        ]


def _frames(row: np.ndarray[tuple[int], np.dtype[np.float32]], payload_bytes: int) -> list[Frame]:
    payload = row.data.cast("B")
    return [
        Frame(
            memoryview(bytearray(HEADER_BYTES)),
            payload[part * PART_BYTES : (part + 1) * PART_BYTES],
        )
        for part in range(parts_of(payload_bytes))
    ]
