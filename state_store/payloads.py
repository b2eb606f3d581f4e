"""Moving one engine rank's objects between caller-owned buffers and the store.

Blocking and thread-safe, for the threads of an engine's linker and for tools. Every object that
`read` gives out is verified; one that is not whole is never given out.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence

from state_store.codec import Frame, check, seal
from state_store.errors import CorruptObject
from state_store.layout import ObjectNames, ObjectRef
from state_store.objects import ObjectClient

logger = logging.getLogger(__name__)


class Outcome(enum.Enum):
    """How a read of one object ended."""

    OK = "ok"
    MISSING = "missing"
    CORRUPT = "corrupt"


class Payloads:
    """Sealed writes and verified reads of the objects of one rank.

    Every operation raises StoreUnavailable when the store does not answer and StoreRefused when
    it refuses; all may simply be repeated.
    """

    def __init__(self, client: ObjectClient, names: ObjectNames) -> None:
        self._client = client
        self._names = names

    def ping(self) -> None:
        self._client.ping()

    def close(self) -> None:
        self._client.close()

    def write(self, items: Sequence[tuple[ObjectRef, Frame]], *, ttl: int) -> int:
        """Store objects that expire after `ttl` s unless a commit pins them; bytes sent.

        An object that is already there stays as it is, with at least `ttl` to live. The frames'
        headers are written, and their payloads may be changed in place.
        """
        sealed = self._seal(items)
        self._client.put(sealed, ttl=ttl)
        return _size(sealed)

    def rewrite(self, items: Sequence[tuple[ObjectRef, Frame]], *, ttl: int) -> int:
        """Overwrite objects that were found corrupt; pins and expiry stay as they are."""
        sealed = self._seal(items)
        self._client.replace(sealed, ttl=ttl)
        return _size(sealed)

    def read(self, items: Sequence[tuple[ObjectRef, Frame]]) -> list[Outcome]:
        """Read each object into its frame. One whose outcome is not OK holds garbage."""
        sizes = self._client.get_into(
            [(self._names.key(ref), frame.stored()) for ref, frame in items]
        )
        return [
            self._verified(ref, frame, size)
            for (ref, frame), size in zip(items, sizes, strict=True)
        ]

    def exists(self, refs: Sequence[ObjectRef]) -> list[bool]:
        return self._client.exists([self._names.key(ref) for ref in refs])

    def touch(self, refs: Sequence[ObjectRef], *, ttl: int) -> list[bool]:
        """Which are there; those that would expire sooner now live `ttl` seconds."""
        return self._client.touch([self._names.key(ref) for ref in refs], ttl=ttl)

    def _seal(
        self, items: Sequence[tuple[ObjectRef, Frame]]
    ) -> list[tuple[bytes, tuple[memoryview, memoryview]]]:
        sealed = []
        for ref, frame in items:
            seal(frame, names=self._names, ref=ref)
            sealed.append((self._names.key(ref), frame.stored()))
        return sealed

    def _verified(self, ref: ObjectRef, frame: Frame, size: int | None) -> Outcome:
        if size is None:
            return Outcome.MISSING
        try:
            check(frame, size, names=self._names, ref=ref)
        except CorruptObject as error:
            logger.error("not loaded: %s", error)
            return Outcome.CORRUPT
        return Outcome.OK


def _size(sealed: Sequence[tuple[bytes, tuple[memoryview, memoryview]]]) -> int:
    return sum(len(piece) for _, pieces in sealed for piece in pieces)
