"""Reading and writing the checkpoints of one thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from agent_runtime.errors import CheckpointLost
from agent_runtime.saver.keys import Place, ThreadKeys, parse_write, value_field, write_field
from agent_runtime.saver.values import chunks_of, put_together, split, take_apart
from state_store.connection import Control

_LUA = Path(__file__).with_name("lua")
_BATCH = 500  # fields of one command
_LIST_BATCH = 32  # checkpoints read together


class Row(NamedTuple):
    """A stored checkpoint without its channels' values.

    parent: id of the checkpoint before, in the same namespace
    """

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    parent: str | None


@dataclass(frozen=True)
class Thread:
    """ttl: seconds that the thread lives after its last write; None for ever."""

    control: Control
    keys: ThreadKeys
    serde: SerializerProtocol
    ttl: float | None

    # ---- writing ------------------------------------------------------------

    async def put(
        self,
        place: Place,
        row: Row,
        values: Mapping[str, tuple[Any, Any]],
        run_id: str | None,
    ) -> None:
        """values: channel -> (version, value) of what is new with this checkpoint."""
        checkpoint = {k: v for k, v in row.checkpoint.items() if k != "channel_values"}
        packed = msgpack.packb(
            [self.serde.dumps_typed(checkpoint), self.serde.dumps_typed(row.metadata), row.parent]
        )
        entries: list[Any] = []
        chunks: dict[bytes, bytes] = {}
        items: dict[bytes, bytes] = {}
        for channel, (version, value) in values.items():
            parts = take_apart(value, self.serde)
            entries += [value_field(place.namespace, channel, version), parts.entry]
            chunks |= parts.chunks
            items |= parts.items
        keys = self.keys
        sent: dict[bytes, bytes] = {}
        known = set(chunks)
        while True:  # what is not there is sent; at most chunks, then items, then what a sweep took
            missing = await self.control.run(
                _LUA / "put.lua",
                [keys.rows, keys.order, keys.runs, keys.values, keys.items, keys.puts],
                place.field,
                packed,
                run_id or "",
                self._milliseconds,
                len(entries) // 2,
                *entries,
                len(sent),
                *(word for item in sent.items() for word in item),
                len(known),
                *known,
            )
            if not missing:
                await self._keep_writes()
                return
            for digest in missing:
                sent[digest] = chunks.get(digest) or items[digest]
                known |= set(split(chunks.get(digest, b"")))
            known -= sent.keys()

    async def put_writes(
        self, place: Place, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        key = self.keys.writes(place)
        async with self.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.sadd(self.keys.written, place.field)
            for position, (channel, value) in enumerate(writes):
                index = WRITES_IDX_MAP.get(channel, position)
                entry = msgpack.packb([channel, *self.serde.dumps_typed(value), task_path])
                # What a task has written stands when the task runs again; errors and interrupts,
                # which have negative indexes, are replaced.
                put = pipeline.hsetnx if index >= 0 else pipeline.hset
                put(key, write_field(task_id, index), entry)
            if self.ttl is not None:
                for one in (key, self.keys.written):
                    pipeline.pexpire(one, self._milliseconds_of_writes)
                for one in self.keys.fixed:
                    pipeline.pexpire(one, self._milliseconds)
            await pipeline.execute()
        await self._keep_writes()

    async def drop(self, places: Iterable[Place]) -> None:
        """Remove checkpoints, with their pending writes."""
        keys, rest = self.keys, list(places)
        for start in range(0, len(rest), _BATCH):
            batch = rest[start : start + _BATCH]
            await self.control.run(
                _LUA / "drop.lua",
                [keys.rows, keys.order, keys.runs, keys.written, *map(keys.writes, batch)],
                *(place.field for place in batch),
            )

    async def sweep(self) -> None:
        """Remove values that no checkpoint needs any more. Begins again if one is put meanwhile."""
        keys = self.keys
        while True:
            async with self.control.guard() as client:
                puts = await client.get(keys.puts) or b""
            fields: set[bytes] = set()
            async for batch in self._batches(await self.places()):
                for place, row in (await self.rows(batch)).items():
                    versions = row.checkpoint["channel_versions"].items()
                    fields |= {value_field(place.namespace, *item).encode() for item in versions}
            entries = await self._get(keys.values, fields)
            chunks = {digest for entry in entries.values() for digest in chunks_of(entry)}
            found = await self._get(keys.items, chunks)
            needed = chunks | {item for chunk in found.values() for item in split(chunk)}
            async with self.control.guard() as client:
                stale = [f for f in await client.hkeys(keys.values) if f not in fields]
                unneeded = [d for d in await client.hkeys(keys.items) if d not in needed]
            arguments = [puts, len(stale), *stale, *unneeded]
            if await self.control.run(
                _LUA / "sweep.lua", [keys.values, keys.items, keys.puts], *arguments
            ):
                return
            await asyncio.sleep(0)

    async def delete(self) -> None:
        async with self.control.guard() as client:
            written = [Place.parse(raw) for raw in await client.smembers(self.keys.written)]
        await self.drop({*written, *await self.places()})
        async with self.control.guard() as client:
            await client.delete(*self.keys.fixed, self.keys.written, self.keys.renewed)

    async def copy_to(self, target: Thread) -> None:
        """Copy everything, what others build on first."""
        for name in ("items", "values"):
            await self._copy_hash(getattr(self.keys, name), getattr(target.keys, name))
        async with self.control.guard() as client:
            written = [Place.parse(raw) for raw in await client.smembers(self.keys.written)]
            if written:
                await client.sadd(target.keys.written, *(place.field for place in written))
        for place in written:
            await self._copy_hash(self.keys.writes(place), target.keys.writes(place))
        for name in ("rows", "runs"):
            await self._copy_hash(getattr(self.keys, name), getattr(target.keys, name))
        places = await self.places()
        async with self.control.guard() as client:
            for start in range(0, len(places), _BATCH):
                batch = places[start : start + _BATCH]
                await client.zadd(target.keys.order, dict.fromkeys((p.field for p in batch), 0))
            await client.incr(target.keys.puts)
            if target.ttl is not None:
                for key in target.keys.fixed:
                    await client.pexpire(key, target._milliseconds)
                for key in (target.keys.written, *map(target.keys.writes, written)):
                    await client.pexpire(key, target._milliseconds_of_writes)

    # ---- reading ------------------------------------------------------------

    async def latest(self, namespace: str) -> Place | None:
        places = await self.places(namespace, most=1)
        return places[0] if places else None

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
            lowest = f"[{Place(namespace, '').field}"
            highest = f"({Place(namespace, before).field}" if before else f"({namespace}\1"
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
                checkpoint, metadata, parent = msgpack.unpackb(packed)
                rows[place] = Row(
                    self.serde.loads_typed(tuple(checkpoint)),
                    self.serde.loads_typed(tuple(metadata)),
                    parent,
                )
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
        fields = {
            place: {
                channel: value_field(place.namespace, channel, version).encode()
                for channel, version in row.checkpoint["channel_versions"].items()
            }
            for place, row in rows.items()
        }
        wanted = {field for channels in fields.values() for field in channels.values()}
        entries = await self._get(self.keys.values, wanted)
        chunks = {digest for entry in entries.values() for digest in chunks_of(entry)}
        found = await self._get(self.keys.items, chunks)
        found |= await self._get(
            self.keys.items, {item for chunk in found.values() for item in split(chunk)}
        )
        writes = await self._writes(list(rows))
        made = []
        for place, row in rows.items():
            try:
                values = {
                    channel: put_together(entries[field], found, self.serde)
                    for channel, field in fields[place].items()
                    if field in entries
                }
            except KeyError as error:
                raise CheckpointLost(
                    f"checkpoint {place.id} of thread {self.keys.thread_id} has lost a part of "
                    "its values; go on from an earlier checkpoint."
                ) from error
            checkpoint: Any = {**row.checkpoint, "channel_values": values}
            made.append(
                CheckpointTuple(
                    self._config(place),
                    checkpoint,
                    row.metadata,
                    self._config(Place(place.namespace, row.parent)) if row.parent else None,
                    writes[place],
                )
            )
        return made

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

    # ---- helpers ------------------------------------------------------------

    @property
    def _milliseconds(self) -> int:
        return 0 if self.ttl is None else int(self.ttl * 1000)

    @property
    def _milliseconds_of_writes(self) -> int:
        """They outlive the thread by as long as `_keep_writes` may be late."""
        return self._milliseconds * 3 // 2

    async def _keep_writes(self) -> None:
        """Have the writes of earlier checkpoints, which later ones may be rebuilt from, live on
        with the thread: all of them, but not at every step."""
        if self.ttl is None:
            return
        async with self.control.guard() as client:
            if await client.exists(self.keys.renewed):
                return
            pipeline = client.pipeline(transaction=False)
            pipeline.pexpire(self.keys.written, self._milliseconds_of_writes)
            for raw in await client.smembers(self.keys.written):
                pipeline.pexpire(self.keys.writes(Place.parse(raw)), self._milliseconds_of_writes)
            pipeline.set(self.keys.renewed, b"", px=max(1, self._milliseconds // 2))
            await pipeline.execute()

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
            for start in range(0, len(rest), _BATCH):
                batch = rest[start : start + _BATCH]
                stored = await client.hmget(key, batch)
                found |= {f: v for f, v in zip(batch, stored, strict=True) if v is not None}
        return found

    async def _writes(self, places: Sequence[Place]) -> dict[Place, list[PendingWrite]]:
        async with self.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for place in places:
                pipeline.hgetall(self.keys.writes(place))
            stored = await pipeline.execute() if places else []
        return {place: self._in_order(found) for place, found in zip(places, stored, strict=True)}

    def _in_order(self, stored: Mapping[bytes, bytes]) -> list[PendingWrite]:
        found = []
        for raw, entry in stored.items():
            task_id, index = parse_write(raw)
            channel, kind, body, task_path = msgpack.unpackb(entry)
            value = self.serde.loads_typed((kind, body))
            found.append((writes_sort_key(task_path, task_id, index), (task_id, channel, value)))
        return [write for _, write in sorted(found, key=lambda one: one[0])]

    async def _copy_hash(self, source: str, target: str) -> None:
        cursor = 0
        async with self.control.guard() as client:
            while True:
                cursor, found = await client.hscan(source, cursor, count=_BATCH)
                if found:
                    await client.hset(target, mapping=found)
                if not cursor:
                    return
