"""What moves between Redis and the archive: one object, on all ranks at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from state_store.archive.names import Generation
from state_store.connection import Control
from state_store.errors import CorruptObject
from state_store.layout import ObjectNames, ObjectRef
from state_store.records import Snapshot


@dataclass(frozen=True)
class Target:
    """names: the object's names on each rank; decoded_bytes: its payload's on the device."""

    ref: ObjectRef
    names: tuple[ObjectNames, ...]
    decoded_bytes: int

    @property
    def objects(self) -> list[bytes]:
        return [names.key(self.ref) for names in self.names]

    @property
    def pins(self) -> bytes:
        return self.names[0].pins_key(self.ref)

    @property
    def cold(self) -> bytes:
        return self.names[0].cold_key(self.ref)

    @property
    def condemned(self) -> bytes:
        return self.names[0].condemned_key(self.ref)


class Whereabouts(NamedTuple):
    """Where an object's bytes are.

    pinned:  a commit holds it
    cold:    the archive has all of it under this generation
    present: ranks whose bytes are in Redis
    idle:    seconds since any of these was last used, None if there are none or the server does
             not keep idle times, as under an LFU policy
    """

    pinned: bool
    cold: Generation | None
    present: int
    idle: int | None


def targets_of(prefix: str, history: Iterable[Snapshot]) -> Iterator[Target]:
    """Everything that the snapshots pin, each once, in their order."""
    seen: set[tuple[str, ObjectRef]] = set()
    for snapshot in history:
        names = tuple(
            ObjectNames(prefix, snapshot.fingerprint_id, rank) for rank in range(snapshot.ranks)
        )
        for ref in snapshot.objects:
            if (snapshot.fingerprint_id, ref) not in seen:
                seen.add((snapshot.fingerprint_id, ref))
                yield Target(ref, names, snapshot.part_bytes(ref))


def targets_of_resume(prefix: str, history: Sequence[Snapshot]) -> list[Target]:
    """What continuing at the end of `history` (root first) loads: the state at its boundary, first,
    and all pages, from the last one back; nothing if no state was stored there."""
    head = history[-1]
    if head.boundary_hash is None:
        return []
    pages: list[ObjectRef] = []
    for snapshot in reversed(history):  # pages under another fingerprint are of no use to it
        if snapshot.fingerprint_id != head.fingerprint_id:
            break
        pages += snapshot.refs("kv", snapshot.page_chain[::-1])
    names = tuple(ObjectNames(prefix, head.fingerprint_id, rank) for rank in range(head.ranks))
    refs = [*head.refs("state", [head.boundary_hash]), *pages]
    return [Target(ref, names, head.part_bytes(ref)) for ref in refs]


async def look(control: Control, targets: Iterable[Target]) -> list[Whereabouts]:
    """Where the objects are, in one round trip. A malformed cold key raises CorruptObject."""
    replies = await control.run_many("look", [([t.pins, t.cold, *t.objects], []) for t in targets])
    return [
        Whereabouts(
            bool(pinned),
            Generation.parse(cold) if cold else None,
            present,
            None if idle < 0 else idle,
        )
        for pinned, cold, present, idle in replies
    ]


def target_beside(prefix: str, key: bytes, *, ranks: int) -> Target:
    """The object that a cold or condemned key speaks of. Raises CorruptObject."""
    rest = key.decode().removeprefix(f"{prefix}:")
    _, kind, fingerprint_id, tag = [*rest.split(":"), *[""] * 4][:4]
    page_hash, _, part = tag.strip("{}").partition(".")
    if kind not in ("kv", "state") or not (part or "0").isdecimal():
        raise CorruptObject(f"{key.decode()} is not a key of this store.")
    names = tuple(ObjectNames(prefix, fingerprint_id, rank) for rank in range(ranks))
    ref = ObjectRef("kv" if kind == "kv" else "state", page_hash, int(part or 0))
    return Target(ref, names, 0)
