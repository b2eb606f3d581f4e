"""What this engine knows to be in the store, without asking it.

SGLang calls `lookup` on its scheduler thread at every admission attempt, so a lookup must never
wait for the network. The index remembers objects that this process wrote, staged or confirmed.
It may be stale (an object expired, the store was wiped): then a load fails, the entry is
forgotten and the request is recomputed. It is never the authority for a commit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from state_store.layout import Kind


class StoredIndex:
    """Thread-safe set of (kind, page hash), bounded, least recently used forgotten first."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        self._capacity = capacity
        self._known: OrderedDict[tuple[Kind, str], None] = OrderedDict()
        self._corrupt: set[tuple[Kind, str]] = set()
        self.has_forgotten = False
        """Whether anything that was known to be stored has turned out to be gone."""
        self._lock = threading.Lock()

    def add(self, kind: Kind, hashes: Iterable[str]) -> None:
        with self._lock:
            for page_hash in hashes:
                self._known[kind, page_hash] = None
                self._corrupt.discard((kind, page_hash))
                self._known.move_to_end((kind, page_hash))
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def forget(self, kind: Kind, hashes: Iterable[str]) -> None:
        with self._lock:
            for page_hash in hashes:
                if (kind, page_hash) in self._known:
                    del self._known[kind, page_hash]
                    self.has_forgotten = True

    def condemn(self, kind: Kind, hashes: Iterable[str]) -> None:
        """Remember that these were found corrupt: the next offload overwrites them."""
        with self._lock:
            for page_hash in hashes:
                self._known.pop((kind, page_hash), None)
                self._corrupt.add((kind, page_hash))

    def is_corrupt(self, kind: Kind, page_hash: str) -> bool:
        return (kind, page_hash) in self._corrupt

    def clear(self) -> None:
        """Forget all but what is corrupt."""
        with self._lock:
            self._known.clear()

    def has(self, kind: Kind, hashes: Sequence[str]) -> list[bool]:
        with self._lock:
            return [(kind, page_hash) in self._known for page_hash in hashes]

    def __len__(self) -> int:
        return len(self._known)
