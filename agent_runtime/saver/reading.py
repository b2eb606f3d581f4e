"""Reading the checkpoints of one thread."""

from __future__ import annotations

import itertools
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
from agent_runtime.saver.values import DIGEST_BYTES, LIST_BYTE, chunks_of, put_together, split
from state_store.connection import Control

LUA = Path(__file__).with_name("lua")
BATCH = 500  # fields of one command
_LIST_BATCH = 32  # checkpoints read together
_WALKS = (8, 32, 128)  # checkpoints that are read at each step back; the last one again and again


class Row(NamedTuple):
    """A stored checkpoint without its channels' values.

    parent: id of the checkpoint before, in the same namespace
    """

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    parent: str | None


@dataclass(frozen=True)
class Reading:
    """What is there of a thread."""

    control: Control
    keys: ThreadKeys
    serde: SerializerProtocol

    async def tuple_at(self, namespace: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        """A checkpoint, the newest if no id is given, in one round trip; None if it is not there.

        Raises CheckpointLost if its values are not all there."""
        lowest, highest = _range(namespace, None)
        keys = self.keys
        found = await self.control.run(
            LUA / "read.lua",
            [keys.rows, keys.order, keys.values, keys.items],
            Place(namespace, checkpoint_id).field if checkpoint_id else "",
            highest,
            lowest,
            keys.all_writes,
            LIST_BYTE,
            DIGEST_BYTES,
        )
        if not found:
            return None
        field, packed, entries, bodies, writes = found
        pending = self._in_order(_pairs(writes))
        return self._made(
            Place.parse(field), self._row(packed), _pairs(entries), _pairs(bodies), pending
        )

    async def delta_history(
        self, namespace: str, checkpoint_id: str | None, channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory]:
        """What channels are rebuilt from: see `BaseCheckpointSaver.get_delta_channel_history`."""
        found: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        wanting = set(channels)
        steps = itertools.chain(_WALKS, itertools.repeat(_WALKS[-1]))
        if checkpoint_id is None:
            batch = await self.places(namespace, most=next(steps))
        else:
            batch = [Place(namespace, checkpoint_id)]
        following = batch[0].id if batch else None
        is_first = True  # what was written after the checkpoint itself is not in it
        while batch and wanting and following is not None:
            rows = await self.rows(batch)
            line: list[Place] = []
            for place in batch:  # newest first
                if place.id == following and place in rows:
                    following = rows[place].parent
                    line.append(place)
            if not line and (is_first or batch == [Place(namespace, following or "")]):
                break  # it is not there
            await self._add_history(line[1:] if is_first else line, rows, wanting, found)
            is_first = False
            if following is not None and following >= batch[-1].id:
                batch = [Place(namespace, following)]  # of a host whose clock was ahead
            else:
                batch = await self.places(namespace, before=batch[-1].id, most=next(steps))
        for history in found.values():
            history["writes"].reverse()
        return found

    async def _add_history(
        self,
        line: Sequence[Place],
        rows: Mapping[Place, Row],
        wanting: set[str],
        found: dict[str, DeltaChannelHistory],
    ) -> None:
        """line: checkpoints, each followed by the one that it was made after; `wanting` loses the
        channels whose value is found. Writes are added newest first."""
        fields = {
            (place, channel): value_field(place.namespace, channel, versions[channel]).encode()
            for place in line
            for versions in (rows[place].checkpoint["channel_versions"],)
            for channel in wanting & versions.keys()
        }
        entries = await self._get(self.keys.values, set(fields.values()))
        bodies = await self._bodies(entries.values())
        writes = await self._writes(line, set(wanting))
        for place in line:
            for write in reversed(writes[place]):
                if write[1] in wanting:
                    found[write[1]]["writes"].append(write)
            for channel in list(wanting):
                entry = entries.get(fields.get((place, channel), b""))
                if entry is not None:
                    found[channel]["seed"] = self._value(place, entry, bodies)
                    wanting.discard(channel)

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
                rows[place] = self._row(packed)
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
        entries = await self._get(self.keys.values, wanted)
        bodies = await self._bodies(entries.values())
        writes = await self._writes(list(rows))
        return [
            self._made(place, row, entries, bodies, writes[place]) for place, row in rows.items()
        ]

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

    def _row(self, packed: bytes) -> Row:
        (kind, checkpoint), (kind_of_metadata, metadata), parent, _ = msgpack.unpackb(
            packed, raw=True
        )
        return Row(
            self.serde.loads_typed((kind.decode(), checkpoint)),
            self.serde.loads_typed((kind_of_metadata.decode(), metadata)),
            None if parent is None else parent.decode(),
        )

    def _made(
        self,
        place: Place,
        row: Row,
        entries: Mapping[bytes, bytes],
        bodies: Mapping[bytes, bytes],
        pending: list[PendingWrite],
    ) -> CheckpointTuple:
        """entries: by value field; bodies: of chunks and items, by digest"""
        values = {
            channel: self._value(place, entries[field], bodies)
            for channel, field in _fields(place, row).items()
            if field in entries
        }
        checkpoint: Any = {**row.checkpoint, "channel_values": values}
        return CheckpointTuple(
            self._config(place),
            checkpoint,
            row.metadata,
            self._config(Place(place.namespace, row.parent)) if row.parent else None,
            pending,
        )

    def _value(self, place: Place, entry: bytes, bodies: Mapping[bytes, bytes]) -> Any:
        try:
            return put_together(entry, bodies, self.serde)
        except KeyError as error:
            raise CheckpointLost(
                f"checkpoint {place.id} of thread {self.keys.thread_id} has lost a part of its "
                "values; go on from an earlier checkpoint."
            ) from error

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

    async def _bodies(self, entries: Iterable[bytes]) -> dict[bytes, bytes]:
        """Of all chunks and items that values need, by digest."""
        chunks = {digest for entry in entries for digest in chunks_of(entry)}
        found = await self._get(self.keys.items, chunks)
        return found | await self._get(
            self.keys.items, {item for chunk in found.values() for item in split(chunk)}
        )

    async def _writes(
        self, places: Sequence[Place], channels: Collection[str] | None = None
    ) -> dict[Place, list[PendingWrite]]:
        """Those to `channels`; all of them if None."""
        async with self.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for place in places:
                pipeline.hgetall(self.keys.writes(place))
            stored = await pipeline.execute() if places else []
        return {
            place: self._in_order(found, channels)
            for place, found in zip(places, stored, strict=True)
        }

    def _in_order(
        self, stored: Mapping[bytes, bytes], channels: Collection[str] | None = None
    ) -> list[PendingWrite]:
        found = []
        for raw, entry in stored.items():
            task_id, index = parse_write(raw)
            channel, kind, body, task_path = msgpack.unpackb(entry)
            if channels is not None and channel not in channels:
                continue
            value = self.serde.loads_typed((kind, body))
            found.append((writes_sort_key(task_path, task_id, index), (task_id, channel, value)))
        return [write for _, write in sorted(found, key=lambda one: one[0])]


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
