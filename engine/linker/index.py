"""What this engine knows to be in the store, without asking it.

SGLang calls `lookup` on its scheduler thread at every admission attempt, so a lookup must never
wait for the network. The index remembers objects that this process wrote, staged or confirmed.
It may be stale (an object expired, the store was wiped): then a load fails, the entry is
forgotten and the request is recomputed. It is never the authority for a commit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from state_store.layout import Kind


class ObjectSet:
    """Thread-safe set of (kind, page hash), bounded, the one added longest ago forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._members: OrderedDict[tuple[Kind, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, kind: Kind, hashes: Iterable[str]) -> None:
        with self._lock:
            for page_hash in hashes:
                self._members[kind, page_hash] = None
                self._members.move_to_end((kind, page_hash))
            while len(self._members) > self._capacity:
                self._members.popitem(last=False)

    def remove(self, kind: Kind, hashes: Iterable[str]) -> list[str]:
        """Those of them that were there."""
        there = []
        with self._lock:
            for page_hash in hashes:
                if (kind, page_hash) in self._members:
                    del self._members[kind, page_hash]
                    there.append(page_hash)
        return there

    def clear(self) -> None:
        with self._lock:
            self._members.clear()

    def has(self, kind: Kind, hashes: Sequence[str]) -> list[bool]:
        with self._lock:
            return [(kind, page_hash) in self._members for page_hash in hashes]

    def __len__(self) -> int:
        return len(self._members)


class StoredIndex:
    """What is known to be in the store, and what of it is corrupt. Thread-safe."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        self._known = ObjectSet(capacity)
        self._corrupt = ObjectSet(capacity)
        self._counting = threading.Lock()
        self.losses = 0
        """How many times something that was known to be stored has turned out to be gone, or to be
        of no use. Grows once it is no longer known."""

    def add(self, kind: Kind, hashes: Collection[str]) -> None:
        """Know of what was written, or read and found whole."""
        self._known.add(kind, hashes)
        self._corrupt.remove(kind, hashes)

    def saw(self, kind: Kind, hashes: Sequence[str]) -> None:
        """Know of what is there; what was found corrupt stays so until it is written or read."""
        corrupt = self._corrupt.has(kind, hashes)
        self.add(kind, [h for h, is_corrupt in zip(hashes, corrupt, strict=True) if not is_corrupt])

    def forget(self, kind: Kind, hashes: Iterable[str]) -> None:
        if self._known.remove(kind, hashes):
            with self._counting:
                self.losses += 1

    def condemn(self, kind: Kind, hashes: Collection[str]) -> None:
        """Remember that these were found corrupt: they are offered again, and overwritten."""
        self._corrupt.add(kind, hashes)
        self.forget(kind, hashes)

    def is_corrupt(self, kind: Kind, page_hash: str) -> bool:
        return self._corrupt.has(kind, [page_hash])[0]

    def clear(self) -> None:
        """Forget all but what is corrupt."""
        self._known.clear()

    def has(self, kind: Kind, hashes: Sequence[str]) -> list[bool]:
        return self._known.has(kind, hashes)

    def __len__(self) -> int:
        return len(self._known)
