"""What an engine has stored of a turn, without one: it is put into the store as an engine puts it.

Pages and states hold made-up bytes. Nothing here generates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import EngineUnreachable
from engine.pool import Engine
from engine.records import EngineRecord
from engine.replies import Settled
from state_store.layout import KINDS, ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.store import StateStore
from tests.state_store.writer import frame_of


class Storing(Engine):
    """Stores each page with a state at its end, when it is asked what it has stored.

    gone: the name of the method that it is killed before it answers
    lags: whether it says that it has stored nothing yet
    """

    def __init__(self, record: EngineRecord, store: StateStore, objects: ObjectClient) -> None:
        super().__init__(record, store)
        self.gone: str | None = None
        self.lags = False
        self.names = ObjectNames(store._prefix, record.fingerprint.id, 0)
        self._objects = objects

    async def settle(self, hashes: Sequence[str], **_: Any) -> Settled:
        self._require("settle")
        if self.lags:
            return Settled((), None)
        self.put(hashes)
        return Settled(tuple(range(1, len(hashes) + 1)), None)

    async def renew(self, hashes: Sequence[str], **_: Any) -> int:
        self._require("renew")
        return 0

    async def persist(self, hashes: Sequence[str], **_: Any) -> Settled:
        self._require("persist")
        return Settled((), None)

    def put(self, hashes: Sequence[str]) -> None:
        names = self.names
        payloads = {"kv": b"kv", "state": b"stat"}
        frames = [
            (names.key(ref), memoryview(frame_of(names, ref.kind, page, payloads[ref.kind])))
            for page in hashes
            for ref in (ObjectRef(kind, page) for kind in KINDS)
        ]
        self._objects.put(frames, ttl=300)

    def _require(self, name: str) -> None:
        if self.gone == name:
            raise EngineUnreachable(f"the engine was killed before it answered {name}")
