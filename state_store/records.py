"""The records that sessions and snapshots are made of, and their stored form.

A record is stored as one version byte and a msgpack map.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Self

import msgpack
from pydantic import BaseModel, ConfigDict

from state_store.errors import CorruptObject
from state_store.layout import Kind

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
    """`salt` is secret: who knows it can name the tenant's pages."""

    name: str
    salt: str


class SessionBody(_Record):
    """What does not change about a session. `meta` is the caller's own."""

    id: str
    tenant: str
    fingerprint_id: str
    labels: dict[str, str]
    meta: dict[str, Any]
    forked_from: str | None
    created_at: float


@dataclass(frozen=True)
class Session:
    """A branch: a named reference to its head snapshot (None before the first turn)."""

    body: SessionBody
    head: str | None

    @property
    def id(self) -> str:
        return self.body.id


class Snapshot(_Record):
    """An immutable commit of one session's model state.

    total_tokens: tokens of the whole history up to here
    boundary:     tokens that stored pages and state cover; the rest is in the token log only
    boundary_hash: hash of the page that ends there, and so the name of the state; None at 0
    page_hashes:  the pages between the parent's boundary and this one, 32 raw bytes each
    ranks:        engine ranks that each hold their share of every object
    meta:         the caller's own
    """

    id: str
    parent: str | None
    session_id: str
    total_tokens: int
    boundary: int
    boundary_hash: str | None
    page_hashes: bytes
    fingerprint_id: str
    ranks: int
    meta: dict[str, Any]
    created_at: float

    @property
    def objects(self) -> list[tuple[Kind, str]]:
        """Everything that this snapshot pins: (kind, hex page hash). The state at the boundary is
        its own if it has pages of its own; else it is an ancestor's."""
        chain = self.page_chain
        pages: list[tuple[Kind, str]] = [("kv", page_hash) for page_hash in chain]
        return pages + [("state", page_hash) for page_hash in chain[-1:]]

    @property
    def page_chain(self) -> list[str]:
        raw = self.page_hashes
        return [raw[start : start + 32].hex() for start in range(0, len(raw), 32)]


@dataclass(frozen=True)
class Lease:
    """The right to move one session's head; `fence` orders all leases of a lineage."""

    session_id: str
    owner: str
    fence: int


@dataclass(frozen=True)
class SnapshotDraft:
    """What a turn wants to commit.

    new_tokens:    uint32[n] after the parent's tokens
    boundary_hash: hex hash of the page that ends at `boundary`, None at 0
    page_hashes:   hex hashes of the pages from the parent's boundary to `boundary`

    Raises ValueError when these contradict each other.
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
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.page_hashes and self.page_hashes[-1] != self.boundary_hash:
            raise ValueError("the boundary is not the end of the last page.")
        if (self.boundary == 0) is not (self.boundary_hash is None):
            raise ValueError(f"boundary {self.boundary} with hash {self.boundary_hash}.")
        if not len(self.new_tokens) <= self.total_tokens >= self.boundary:
            raise ValueError(
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
