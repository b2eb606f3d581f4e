"""What sessions take in Redis: values as the linker writes them, and memory as Redis counts it.

Every rank stores its own share, a page per object and a state cut into parts of at most
`PART_BYTES`; each value has a header. Redis rounds a value up to a size class of its allocator:
jemalloc, which it is built with by default, has four classes per doubling, so up to a fifth of a
class may be unused (it counts towards `maxmemory` all the same).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.plan.sizes import TOKEN_LOG_BYTES, StateSize
from state_store.codec import HEADER_BYTES
from state_store.layout import PART_BYTES

OBJECT_OVERHEAD = 512
"""Bytes around one value: key, entry in the table, expiry, and the set of commits that hold it."""
SESSION_OVERHEAD = 4096
"""Bytes of a session's and its head snapshot's records; page hashes are counted apart."""
_HASH_BYTES = 32
_SDS_BYTES = 10  # length, capacity, flags and the final zero of a Redis string


@dataclass(frozen=True)
class Stored:
    """payload: bytes that were asked for, which are also what is read back and archived;
    memory: bytes that Redis counts for them."""

    payload: int
    memory: int

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.payload + other.payload, self.memory + other.memory)

    def __mul__(self, times: int) -> Stored:
        return Stored(self.payload * times, self.memory * times)


def size_class(size: int) -> int:
    """The smallest jemalloc size class that holds `size` bytes (16 bytes or more)."""
    if size <= 128:
        return max(16, -(-size // 16) * 16)
    step = 1 << ((size - 1).bit_length() - 3)  # a quarter of the power of two below
    return -(-size // step) * step


def kv(size: StateSize, ranks: int, tokens: int, page: int) -> Stored:
    """KV and draft KV of `tokens`, in whole pages, on all `ranks`, with its token log."""
    pages = -(-tokens // page)
    values = _value(size.per_token * page) * (pages * ranks)
    records = pages * _HASH_BYTES + tokens * TOKEN_LOG_BYTES
    return values + Stored(records, size_class(records) if records else 0)


def states(size: StateSize, ranks: int, count: int) -> Stored:
    """`count` recurrent states on all `ranks`."""
    return _value(size.state) * (count * ranks)


def session_records() -> Stored:
    return Stored(SESSION_OVERHEAD, SESSION_OVERHEAD)


def _value(payload: int) -> Stored:
    whole, rest = divmod(payload, PART_BYTES)
    parts = [PART_BYTES] * whole + ([rest] if rest else [])
    memory = sum(
        size_class(part + HEADER_BYTES + _SDS_BYTES) + OBJECT_OVERHEAD for part in parts
    )  # fmt: skip
    return Stored(payload + len(parts) * HEADER_BYTES, memory)
