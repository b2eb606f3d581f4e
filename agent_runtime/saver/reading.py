"""Reading the checkpoints of one thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from agent_runtime.errors import CheckpointLost
from agent_runtime.saver.keys import Place, ThreadKeys, parse_write, value_field
from agent_runtime.saver.memo import Memo
from agent_runtime.saver.sealing import Sealing, Serialized
from agent_runtime.saver.values import CHUNK, DIGEST_BYTES, put_together, split, tree_of
from state_store.connection import Control

LUA = Path(__file__).with_name("lua")
BATCH = 500  # fields of one command
_LIST_BATCH = 32  # checkpoints read together
_WALK = 512  # checkpoints that a script looks at, going back


class Row(NamedTuple):
    """A stored checkpoint without its channels' values.

    parent: id of the checkpoint before, in the same namespace
    valued: channels whose value the checkpoint was put with. Others have none, or one that is
            rebuilt from writes.
    """

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    parent: str | None
    valued: frozenset[str]


@dataclass(frozen=True)
class _Values:
    """entries: by value field; bodies: of chunks and items, by digest; held: messages of chunks,
    which the memo has, of those chunks whose items are all there"""

    entries: dict[bytes, bytes]
    bodies: dict[bytes, bytes]
    held: dict[bytes, bytes]

    @classmethod
    def of(cls, reply: Sequence[Any], held: Mapping[bytes, bytes]) -> _Values:
        """From what a script begins its reply with."""
        entries, bodies, whole, *_ = reply
        return cls(_pairs(entries), _pairs(bodies), {chunk: held[chunk] for chunk in whole})

    def add(self, more: _Values) -> None:
        self.entries.update(more.entries)
        self.bodies.update(more.bodies)
        self.held.update(more.held)


@dataclass(frozen=True)
class Reading:
    """What is there of a thread."""

    control: Control
    keys: ThreadKeys
    serde: SerializerProtocol
    memo: Memo
    sealing: Sealing

    async def tuple_at(self, namespace: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        """A checkpoint, the newest if no id is given, in one round trip; None if it is not there.

        Raises CheckpointLost if its values are not all there."""
        held = self._held()
        found = await self._read(_field(namespace, checkpoint_id), namespace, held, ())
        if not found:
            return None
        *_, field, packed, writes = found
        place = Place.parse(field)
        pending = self._in_order(place, _pairs(writes))
        return self._made(place, self._row(place, packed), _Values.of(found, held), pending)

    async def delta_history(
        self, namespace: str, checkpoint_id: str | None, channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory]:
        """What channels are rebuilt from: see `BaseCheckpointSaver.get_delta_channel_history`.

        Raises CheckpointLost if a checkpoint that they are rebuilt from is not there any more."""
        found: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        seeds: dict[str, tuple[Place, bytes]] = {}
        lowest, highest = _range(namespace, None)
        keys = self.keys
        following: str | bytes = _field(namespace, checkpoint_id)
        wanting: Sequence[str | bytes] = list(found)
        is_first = True  # what was written after the checkpoint itself is not in it
        while wanting:
            line, following, wanting, lost = await self.control.run(
                LUA / "history.lua",
                [keys.rows, keys.order, keys.values],
                following,
                highest,
                lowest,
                keys.all_writes,
                _WALK,
                int(not is_first),
                *wanting,
            )
            is_first = False
            if lost:
                raise self._lost(f"checkpoint {checkpoint_id or 'the newest'}")
            for raw, writes, values in line:  # newest first
                asked = found.keys() - seeds.keys()
                for write in reversed(self._in_order(Place.parse(raw), _pairs(writes), asked)):
                    found[write[1]]["writes"].append(write)
                for channel, stored_in in _pairs(values).items():
                    seeds[channel.decode()] = (Place.parse(raw), stored_in)
        stored = await self._values({field for _, field in seeds.values()})
        for name, (place, field) in seeds.items():
            found[name]["seed"] = self._value(place, field, stored)
        for history in found.values():
            history["writes"].reverse()
        return found

    async def places(
        self,
        namespace: str | None = None,
        *,
        before: str | None = None,
        most: int | None = None,
    ) -> list[Place]:
        """Newest first within a namespace; of all namespaces if None, in no useful order."""
        lowest, highest = "-", "+"
        if namespace is not None:
            lowest, highest = _range(namespace, before)
        async with self.control.guard() as client:
            raw = await client.zrevrangebylex(
                self.keys.order, highest, lowest, start=None if most is None else 0, num=most
            )
        return [Place.parse(field) for field in raw]

    async def namespaces(self) -> list[str]:
        return sorted({place.namespace for place in await self.places()})

    async def rows(self, places: Sequence[Place]) -> dict[Place, Row]:
        """Those that are there."""
        stored = await self._get(self.keys.rows, [place.field.encode() for place in places])
        rows = {}
        for place in places:
            if (packed := stored.get(place.field.encode())) is not None:
                rows[place] = self._row(place, packed)
        return rows

    async def runs(self) -> dict[Place, str]:
        async with self.control.guard() as client:
            stored = await client.hgetall(self.keys.runs)
        return {Place.parse(field): run.decode() for field, run in stored.items()}

    async def value_fields(self) -> set[str]:
        """Fields of the values that are there."""
        async with self.control.guard() as client:
            return {field.decode() for field in await client.hkeys(self.keys.values)}

    async def tuples(self, places: Sequence[Place]) -> list[CheckpointTuple]:
        """The checkpoints with their values and pending writes, in the order of `places`.

        Raises CheckpointLost for one whose values are not all there."""
        rows = await self.rows(places)
        wanted = {field for place, row in rows.items() for field in _fields(place, row).values()}
        stored = await self._values(wanted)
        writes = await self._writes(list(rows))
        return [self._made(place, row, stored, writes[place]) for place, row in rows.items()]

    async def newest_first(
        self, places: Sequence[Place], *, metadata: Mapping[str, Any] | None
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of one namespace whose metadata agrees, read as they are asked for."""
        async for batch in self._batches(places):
            rows = await self.rows(batch)
            chosen = [
                place
                for place, row in rows.items()
                if all(row.metadata.get(key) == value for key, value in (metadata or {}).items())
            ]
            for one in await self.tuples(chosen):
                yield one

    def _held(self) -> dict[bytes, bytes]:
        return self.memo.held((self.serde, self.keys.thread_id))

    async def _values(self, fields: Collection[bytes]) -> _Values:
        """Those that are there, with all that they are made of."""
        held = self._held()
        stored = _Values({}, {}, {})
        rest = list(fields)
        for start in range(0, len(rest), BATCH):
            found = await self._read("", "", held, rest[start : start + BATCH])
            stored.add(_Values.of(found, held))
        return stored

    async def _read(
        self, field: str, namespace: str, held: Mapping[bytes, bytes], fields: Sequence[bytes]
    ) -> Any:
        keys = self.keys
        lowest, highest = _range(namespace, None)
        return await self.control.run(
            LUA / "read.lua",
            [keys.rows, keys.order, keys.values, keys.items],
            field,
            highest,
            lowest,
            keys.all_writes,
            DIGEST_BYTES,
            b"".join(held),
            *fields,
        )

    def _row(self, place: Place, packed: bytes) -> Row:
        # Rows that were stored before they named the channels with values have four parts.
        (kind, checkpoint), (kind_of_metadata, metadata), parent, versions, *valued = (
            msgpack.unpackb(packed, raw=True)
        )
        texts = {channel.decode(): version.decode() for channel, version in versions.items()}
        whole: Any = {"channel_versions": texts}
        whole |= self._opened((kind.decode(), checkpoint), "checkpoint", place.field)
        return Row(
            whole,
            self._opened((kind_of_metadata.decode(), metadata), "metadata", place.field),
            None if parent is None else parent.decode(),
            frozenset(channel.decode() for channels in valued for channel in channels),
        )

    def _opened(self, sealed: Serialized, *place: str | bytes) -> Any:
        """What was serialized and sealed for that place. Raises CorruptObject."""
        return self.serde.loads_typed(self.sealing.open(sealed, *place))

    def _made(
        self, place: Place, row: Row, stored: _Values, pending: list[PendingWrite]
    ) -> CheckpointTuple:
        values = {
            channel: self._value(place, field, stored)
            for channel, field in _fields(place, row).items()
            if field in stored.entries or channel in row.valued
        }
        checkpoint: Any = {**row.checkpoint, "channel_values": values}
        return CheckpointTuple(
            self._config(place),
            checkpoint,
            row.metadata,
            self._config(Place(place.namespace, row.parent)) if row.parent else None,
            pending,
        )

    def _value(self, place: Place, field: bytes, stored: _Values) -> Any:
        try:
            entry, bodies = stored.entries[field], stored.bodies
            if tree_of(entry) is None:
                _, kind, body = msgpack.unpackb(entry)
                return self._opened((kind, body), "value", field)
            return put_together(entry, bodies, lambda name: self._items(name, stored))
        except KeyError as error:
            raise self._lost(f"checkpoint {place.id}") from error

    def _lost(self, checkpoint: str) -> CheckpointLost:
        return CheckpointLost(
            f"{checkpoint} of thread {self.keys.thread_id} has lost a part of its "
            "values; go on from an earlier checkpoint."
        )

    def _items(self, chunk: bytes, stored: _Values) -> list[Any]:
        """Raises KeyError if one is not there."""
        owner = (self.serde, self.keys.thread_id)
        if (held := stored.held.get(chunk)) is not None:
            return self.memo.remade(owner, chunk, held)
        items = []
        for digest in split(stored.bodies[chunk]):
            kind, body = msgpack.unpackb(stored.bodies[digest])
            items.append(self._opened((kind, body), "item", digest))
        if len(items) == CHUNK:
            self.memo.keep(owner, chunk, items)
        return items

    def _config(self, place: Place) -> Any:
        return {
            "configurable": {
                "thread_id": self.keys.thread_id,
                "checkpoint_ns": place.namespace,
                "checkpoint_id": place.id,
            }
        }

    async def _batches(self, places: Sequence[Place]) -> AsyncIterator[Sequence[Place]]:
        for start in range(0, len(places), _LIST_BATCH):
            yield places[start : start + _LIST_BATCH]

    async def _get(self, key: str, fields: Iterable[bytes]) -> dict[bytes, bytes]:
        """The fields of a hash that are there."""
        found: dict[bytes, bytes] = {}
        rest = list(fields)
        async with self.control.guard() as client:
            for start in range(0, len(rest), BATCH):
                batch = rest[start : start + BATCH]
                stored = await client.hmget(key, batch)
                found |= {f: v for f, v in zip(batch, stored, strict=True) if v is not None}
        return found

    async def _writes(self, places: Sequence[Place]) -> dict[Place, list[PendingWrite]]:
        async with self.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for place in places:
                pipeline.hgetall(self.keys.writes(place))
            stored = await pipeline.execute() if places else []
        return {p: self._in_order(p, found) for p, found in zip(places, stored, strict=True)}

    def _in_order(
        self,
        place: Place,
        stored: Mapping[bytes, bytes],
        channels: Collection[str] | None = None,
    ) -> list[PendingWrite]:
        """Writes to a checkpoint: those to `channels`; all of them if None."""
        found = []
        for raw, entry in stored.items():
            task_id, index = parse_write(raw)
            channel, kind, body, task_path = msgpack.unpackb(entry)
            if channels is not None and channel not in channels:
                continue
            value = self._opened((kind, body), "write", place.field, raw)
            found.append((writes_sort_key(task_path, task_id, index), (task_id, channel, value)))
        return [write for _, write in sorted(found, key=lambda one: one[0])]


def _field(namespace: str, checkpoint_id: str | None) -> str:
    return Place(namespace, checkpoint_id).field if checkpoint_id else ""


def _range(namespace: str, before: str | None) -> tuple[str, str]:
    """Beginning and end of a namespace's places in `order`, before the one of an id."""
    end = f"({Place(namespace, before).field}" if before else f"({namespace}\1"
    return f"[{Place(namespace, '').field}", end


def _fields(place: Place, row: Row) -> dict[str, bytes]:
    """Channel -> field of its value."""
    return {
        channel: value_field(place.namespace, channel, version).encode()
        for channel, version in row.checkpoint["channel_versions"].items()
    }


def _pairs(flat: Sequence[bytes] | Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """A script's reply that is a flat list, or a map already, as RESP3 has hashes."""
    return (
        dict(flat) if isinstance(flat, Mapping) else dict(zip(flat[::2], flat[1::2], strict=True))
    )
