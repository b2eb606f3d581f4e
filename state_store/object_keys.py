"""Keys of an encrypted tenant's objects: their seeds in the store, agreed upon by all writers.

Each object has a seed (`ObjectNames.seed_key`) from which all ranks' writers derive the one key:
whoever comes first places it, and everybody else takes what is there. A seed must not go before
its object does: an object left behind would stand in the way of writers, who store only what is
not there, and nobody could read it. Hence

- a seed is placed or refreshed before its object, and lives twice as long unless pinned;
- a commit pins an object only if its seed is there and each rank's header carries the seed's
  first bytes (its key id); else the object counts as missing and, if nothing pins it, is removed
  for writers to store it again, as when it was written while its seed was shredded;
- who lets go of an object's last pin deletes it and its seed in one step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from state_store.cipher import ObjectKey
from state_store.errors import CorruptObject, InvalidKey, StoreRefused
from state_store.layout import ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.vault import TenantKey, new_object_seed

logger = logging.getLogger(__name__)

_SEED_LIFE = 2  # times its object's: they are written within the time that the object then lives
_ATTEMPTS = 3


class ObjectKeys:
    """Keys of one tenant's objects under one fingerprint. Thread-safe if the client is.

    Every operation raises StoreUnavailable when the store does not answer and StoreRefused when
    it refuses; all may simply be repeated.
    """

    def __init__(self, client: ObjectClient, names: ObjectNames, tenant_key: TenantKey) -> None:
        self._client = client
        self._names = names
        self._tenant_key = tenant_key

    def for_writing(self, refs: Sequence[ObjectRef], *, ttl: int) -> list[ObjectKey]:
        """Keys to encrypt `refs` with, before they are stored for `ttl` seconds.

        Raises CorruptObject for a seed that is damaged.
        """
        seeds: dict[ObjectRef, bytes] = {}
        wanted = list(dict.fromkeys(refs))
        for _ in range(_ATTEMPTS):
            seeds.update(self._agree(wanted, ttl))
            wanted = [ref for ref in wanted if ref not in seeds]
            if not wanted:  # else they expired, or were shredded, between the two round trips
                return [self._key(ref, seeds[ref]) for ref in refs]
        raise StoreRefused(
            f"seeds of {len(wanted)} objects were gone right after they were found; nothing was "
            "stored under them. Does the server evict keys? Set maxmemory-policy noeviction."
        )

    def for_reading(self, refs: Sequence[ObjectRef]) -> list[ObjectKey | None]:
        """Keys to decrypt `refs` with; None where there is none (any more): an object that may
        still lie there cannot be read by anyone."""
        keys: list[ObjectKey | None] = []
        for ref, seed in zip(refs, self._client.get_small(self._seed_keys(refs)), strict=True):
            try:
                keys.append(None if seed is None else self._key(ref, seed))
            except CorruptObject as error:
                logger.error("not loaded: %s", error)
                keys.append(None)
        return keys

    def exists(self, refs: Sequence[ObjectRef]) -> list[bool]:
        """Which of `refs` have a seed; one without counts as not stored."""
        return self._client.exists(self._seed_keys(refs))

    def touch(self, refs: Sequence[ObjectRef], *, ttl: int) -> list[bool]:
        """Like `exists`; seeds that would expire sooner now outlive objects of `ttl` seconds."""
        return self._client.touch(self._seed_keys(refs), ttl=_SEED_LIFE * ttl)

    def _agree(self, refs: Sequence[ObjectRef], ttl: int) -> dict[ObjectRef, bytes]:
        """Seeds that are in the store; one round trip for new objects, two for others."""
        ours = [(self._names.seed_key(ref), new_object_seed()) for ref in refs]
        placed = self._client.set_small_nx(ours, ttl=_SEED_LIFE * ttl)
        seeds = {ref: seed for ref, (_, seed), new in zip(refs, ours, placed, strict=True) if new}
        others = [ref for ref in refs if ref not in seeds]
        if others:
            theirs = self._client.get_small(self._seed_keys(others))
            seeds.update(
                (r, seed) for r, seed in zip(others, theirs, strict=True) if seed is not None
            )
        return seeds

    def _key(self, ref: ObjectRef, seed: bytes) -> ObjectKey:
        try:
            return self._tenant_key.object_key(seed, ref, self._names.fingerprint_id)
        except InvalidKey as error:
            raise CorruptObject(str(error)) from error

    def _seed_keys(self, refs: Sequence[ObjectRef]) -> list[bytes]:
        return [self._names.seed_key(ref) for ref in refs]
