"""Token histories of session heads, kept in memory so that a turn only handles what is new."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from state_store.fingerprint import Fingerprint
from state_store.identity import page_hashes
from state_store.store import StateStore

CAPACITY = 16 << 20  # tokens, of four bytes, and of two more for the names of their pages
_LEAST = 1024  # tokens that a history counts as besides its own: it is an object, after all


@dataclass(frozen=True)
class History:
    """All token ids up to a snapshot, and the identity of every page they fill.

    tokens:   token ids from the session's beginning
    hashes:   page chain; hashes[i] names page i (see `state_store/identity.py`)
    boundary: tokens covered by stored pages and state; a multiple of the page size
    format_id: fingerprint of the engine that these are for
    stored_as: fingerprint of the snapshot, whose state is of no use if it is another
    """

    tokens: array[int]
    hashes: list[str]
    boundary: int
    format_id: str = ""
    stored_as: str = ""

    def extended(
        self, new: Sequence[int], *, page_size: int, salt: str, bigram: bool
    ) -> tuple[array[int], list[str]]:
        """Tokens and page chain after appending `new`; hashes only the pages it completes."""
        tokens = self.tokens + array("I", new)
        known = len(self.hashes)
        fresh = page_hashes(
            tokens[known * page_size :],
            page_size,
            salt=salt,
            bigram=bigram,
            prior=self.hashes[-1] if self.hashes else None,
        )
        return tokens, self.hashes + fresh


EMPTY = History(array("I"), [], 0)


class Histories:
    """Histories by snapshot id, read from the token log when not held. The longest unused are let
    go of: each holds all of its tokens, so those of long sessions are few."""

    def __init__(self, store: StateStore, capacity: int = CAPACITY) -> None:
        """capacity: tokens of all that are held; one is held whatever its length"""
        self._store = store
        self._capacity = capacity
        self._held: OrderedDict[str, History] = OrderedDict()
        self._tokens = 0

    async def of(self, snapshot_id: str | None, fingerprint: Fingerprint, *, salt: str) -> History:
        """fingerprint: of the engine that is to go on from there"""
        if snapshot_id is None:
            return EMPTY
        history = self._held.get(snapshot_id)
        if history is None or history.format_id != fingerprint.id:
            snapshot = await self._store.snapshot(snapshot_id)
            log = array("I", await self._store.tokens(snapshot_id))
            tokens, hashes = EMPTY.extended(
                log, page_size=fingerprint.page_size, salt=salt, bigram=fingerprint.bigram
            )
            stored_as = snapshot.fingerprint_id
            boundary = snapshot.boundary if stored_as == fingerprint.id else 0
            history = History(tokens, hashes, boundary, fingerprint.id, stored_as)
        self.hold(snapshot_id, history)
        return history

    def hold(self, snapshot_id: str, history: History) -> None:
        before = self._held.pop(snapshot_id, None)
        self._held[snapshot_id] = history
        self._tokens += _weight(history) - (0 if before is None else _weight(before))
        while self._tokens > self._capacity and len(self._held) > 1:
            self._tokens -= _weight(self._held.popitem(last=False)[1])


def _weight(history: History) -> int:
    return len(history.tokens) + _LEAST
