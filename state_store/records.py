"""The records that sessions and snapshots are made of, and their stored form.

A record is stored as one version byte and a msgpack map.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import msgpack
from pydantic import BaseModel, ConfigDict, Field

from state_store.encodings.economy import LOSSLESS
from state_store.errors import CorruptObject, InvalidDraft, InvalidId
from state_store.layout import (
    PART_BYTES,
    Kind,
    ObjectRef,
    is_snapshot_id,
    lineage_of,
    parts_of,
)

_VERSION = b"\x01"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def pack(self) -> bytes:
        return _VERSION + bytes(msgpack.packb(self.model_dump(mode="python")))

    @classmethod
    def unpack(cls, stored: bytes) -> Self:
        """Raises CorruptObject for a record that this version cannot read."""
        if stored[:1] != _VERSION:
            raise CorruptObject(f"a {cls.__name__} record has version {stored[:1].hex()}, not 01.")
        try:
            return cls.model_validate(msgpack.unpackb(stored[1:]))
        except ValueError as error:
            raise CorruptObject(f"a {cls.__name__} record cannot be read: {error}") from error


class Tenant(_Record):
    """One stay of a tenant in the store.

    id:          tells it from an earlier tenant of the same name
    salt:        secret, for who knows it can name the tenant's pages; empty for an encrypted
                 tenant, whose salt comes from its key
    wrapped_key: see `state_store/vault.py`; None for a tenant who stores in the clear
    economy:     class of the sessions that it creates
    deleted:     nothing of the tenant is left but this record, which keeps it from coming back
    """

    name: str
    id: str
    salt: str = Field(repr=False)
    wrapped_key: bytes | None = Field(default=None, repr=False)
    economy: str = LOSSLESS
    deleted: bool = False

    @property
    def encrypted(self) -> bool:
        return self.wrapped_key is not None


class _Owned(_Record):
    """What sessions and snapshots know of how everything in their lineage is stored.

    tenant_id:   of the stay of the tenant that the lineage belongs to
    economy:     its class, see `state_store/encodings/economy.py`
    encrypted:   whether token log, meta, pages and states are
    meta:        the caller's own
    sealed_meta: what `meta` is stored as if encrypted
    """

    tenant: str = ""
    tenant_id: str = ""
    economy: str = LOSSLESS
    encrypted: bool = False
    meta: dict[str, Any]
    sealed_meta: bytes = b""


class SessionBody(_Owned):
    """What does not change about a session. forked_at: the head that it began with."""

    id: str
    fingerprint_id: str
    forked_from: str | None
    forked_at: str | None = None
    created_at: float


class LabelSet(_Record):
    """All labels of one session or snapshot."""

    labels: dict[str, str]


@dataclass(frozen=True)
class Session:
    """A branch: a named reference to its head snapshot (None before the first turn)."""

    body: SessionBody
    head: str | None
    labels: dict[str, str]

    @classmethod
    def unpack(cls, body: bytes, head: bytes, labels: bytes | None) -> Self:
        """From the fields of its record. Raises CorruptObject."""
        found = {} if labels is None else LabelSet.unpack(labels).labels
        unpacked = SessionBody.unpack(body)
        if not head:
            return cls(unpacked, None, found)
        try:
            named = head.decode()
            is_own = is_snapshot_id(named) and lineage_of(named) == lineage_of(unpacked.id)
        except (UnicodeDecodeError, InvalidId):
            is_own = False
        if not is_own:
            raise CorruptObject(f"its head is no snapshot of its own: {head[:80]!r}")
        return cls(unpacked, named, found)

    @property
    def id(self) -> str:
        return self.body.id


class Snapshot(_Owned):
    """An immutable commit of one session's model state.

    total_tokens: tokens of the whole history up to here
    boundary:     tokens that stored pages and state cover; the rest is in the token log only
    boundary_hash: hash of the page that ends there, and so the name of the state; None at 0
    page_hashes:  the pages between the parent's boundary and this one, 32 raw bytes each; from
                  the beginning of the history if the parent's are of another fingerprint
    checkpoints:  counts of those pages, ascending, at whose ends a state is kept besides the one
                  at the boundary: forks start there
    ranks:        engine ranks that each hold their share of every object
    kv_bytes, state_bytes: of one page and of one state on one rank of the device
    files:        name of the set of files that goes with it, see `state_store/files.py`
    file_bytes:   of those that the parent's set does not have
    """

    id: str
    parent: str | None
    session_id: str
    total_tokens: int
    boundary: int
    boundary_hash: str | None
    page_hashes: bytes
    checkpoints: tuple[int, ...] = ()
    fingerprint_id: str
    ranks: int
    kv_bytes: int
    state_bytes: int
    created_at: float
    files: str | None = None
    file_bytes: int = 0

    @property
    def objects(self) -> list[ObjectRef]:
        """Everything that this snapshot pins. The state at the boundary is its own if it has
        pages of its own; else it is an ancestor's."""
        pages = self.page_chain
        states = [*(pages[count - 1] for count in self.checkpoints), *pages[-1:]]
        return [*self.refs("kv", pages), *self.refs("state", states)]

    def boundaries(self, page_size: int) -> list[int]:
        """Token counts, ascending, at which this snapshot keeps a state of its own."""
        pages = len(self.page_hashes) // 32
        first = self.boundary - pages * page_size
        counts = [*self.checkpoints, pages] if pages else []
        return [first + count * page_size for count in counts]

    @property
    def page_chain(self) -> list[str]:
        raw = self.page_hashes
        return [raw[start : start + 32].hex() for start in range(0, len(raw), 32)]

    def refs(self, kind: Kind, page_hashes: Sequence[str]) -> list[ObjectRef]:
        """All parts of the pages, or of the states, with these names."""
        parts = range(parts_of(self.payload_bytes(kind)))
        return [ObjectRef(kind, page_hash, part) for page_hash in page_hashes for part in parts]

    @property
    def device_bytes(self) -> int:
        """Of everything that it pins, on all ranks, as on the device."""
        pages = len(self.page_hashes) // 32
        states = len(self.checkpoints) + 1 if pages else 0
        return self.ranks * (pages * self.kv_bytes + states * self.state_bytes)

    @property
    def counted_bytes(self) -> int:
        """What it counts for quotas."""
        return self.device_bytes + self.file_bytes

    def payload_bytes(self, kind: Kind) -> int:
        """Of one page or state, on one rank of the device."""
        return self.kv_bytes if kind == "kv" else self.state_bytes

    def part_bytes(self, ref: ObjectRef) -> int:
        """Of one object of this snapshot, on one rank of the device."""
        return min(PART_BYTES, self.payload_bytes(ref.kind) - ref.part * PART_BYTES)


@dataclass(frozen=True)
class Lease:
    """The right to move one session's head.

    fence: orders the leases of a lineage
    nonce: tells two leases apart whose fence is equal, as after a failover that lost the last one
    """

    session_id: str
    owner: str
    fence: int
    nonce: str

    @property
    def token(self) -> str:
        """What every write of the holder is checked against."""
        return f"{self.fence}:{self.nonce}"


@dataclass(frozen=True)
class SnapshotDraft:
    """What a turn wants to commit.

    new_tokens:    uint32[n] after the parent's tokens
    boundary_hash: hex hash of the page that ends at `boundary`, None at 0
    page_hashes:   hex hashes of the pages from the parent's boundary to `boundary`
    checkpoints:   see `Snapshot`
    economy:       class that the objects were written in
    files:         name of a set of files in the store; those of the parent if None
    replaces:      the session's head, if that is not `parent` but descends from it: it is let go
    onto:          a draft of the same session that is committed in the same step, and whose
                   snapshot is the parent: `parent` and `replaces` are None then

    Raises InvalidDraft when these contradict each other.
    """

    session_id: str
    parent: str | None
    new_tokens: array[int]
    total_tokens: int
    boundary: int
    boundary_hash: str | None
    page_hashes: tuple[str, ...]
    fingerprint_id: str
    ranks: int
    checkpoints: tuple[int, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    economy: str = LOSSLESS
    files: str | None = None
    replaces: str | None = None
    onto: SnapshotDraft | None = None

    @property
    def chain(self) -> tuple[SnapshotDraft, ...]:
        """All that is committed in one step, parents first."""
        last: SnapshotDraft | None = self
        drafts = []
        while last is not None:
            drafts.append(last)
            last = last.onto
        return tuple(reversed(drafts))

    @property
    def expected_head(self) -> str | None:
        """Of the session, without which nothing is committed."""
        first = self.chain[0]
        return first.parent if first.replaces is None else first.replaces

    def __post_init__(self) -> None:
        if self.onto is not None and (self.parent or self.replaces):
            raise InvalidDraft(
                f"it goes on from another draft, and from {self.parent or self.replaces} as well."
            )
        if self.onto is not None and self.onto.session_id != self.session_id:
            raise InvalidDraft(
                f"it goes on from a draft of another session than {self.session_id}."
            )
        if self.page_hashes and self.page_hashes[-1] != self.boundary_hash:
            raise InvalidDraft("the boundary is not the end of the last page.")
        if (self.boundary == 0) is not (self.boundary_hash is None):
            raise InvalidDraft(f"boundary {self.boundary} with hash {self.boundary_hash}.")
        inside = [0, *self.checkpoints, max(1, len(self.page_hashes))]
        if any(one >= other for one, other in pairwise(inside)):
            raise InvalidDraft(
                f"checkpoints {self.checkpoints} do not ascend below {len(self.page_hashes)} pages."
            )
        if not len(self.new_tokens) <= self.total_tokens >= self.boundary:
            raise InvalidDraft(
                f"{self.total_tokens} tokens in all, {len(self.new_tokens)} of them new, "
                f"do not reach the boundary {self.boundary}."
            )


@dataclass(frozen=True)
class Commit:
    """The snapshot that is now the head, the durability that was confirmed for it, and why not
    the one that was asked for (None if it was)."""

    snapshot: Snapshot
    durability: str
    shortfall: str | None = None
