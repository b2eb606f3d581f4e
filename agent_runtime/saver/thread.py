"""Writing the checkpoints of one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from langgraph.checkpoint.base import WRITES_IDX_MAP

from agent_runtime.saver.keys import Place, value_field, write_field
from agent_runtime.saver.reading import BATCH, LUA, Reading, Row
from agent_runtime.saver.sealing import Serialized
from agent_runtime.saver.values import Parts, Stored, split, take_apart, tree_of

_FEW = 2  # chunks of each level


@dataclass(frozen=True)
class Thread(Reading):
    """lives: milliseconds that the thread does after its last write, 0 for ever; stored: of all
    threads of the saver"""

    lives: int
    stored: Stored

    async def put(
        self,
        place: Place,
        row: Row,
        values: Mapping[str, tuple[Any, Any]],
        inherited: Mapping[str, tuple[Any, Any]],
        run_id: str | None,
        *,
        enlist: Callable[[], Awaitable[None]],
    ) -> None:
        """values: channel -> (version, value) of what is new with this checkpoint; inherited: of
        what it has from earlier ones, sent only if it is not there any more; enlist: done before
        the thread's first one is stored"""
        packed = self._packed(place, row)
        keys, thread_id = self.keys, self.keys.thread_id
        fresh, kept = _by_field(place, values), _by_field(place, inherited)

        def is_stored(chunk: bytes) -> bool:
            return self.stored.has(thread_id, chunk)

        parts = self._apart(fresh, is_stored)
        sent = self._new(parts)
        is_listed = False
        while True:  # what is not there is sent; at most each level, then what a sweep took
            named = {*parts.tops, *(below for digest in sent for below in parts.below(digest))}
            known = named - sent.keys()
            outcome, *missing = await self.control.run(
                LUA / "put.lua",
                [*keys.fixed, keys.renewed],
                place.field,
                packed,
                run_id or "",
                self.lives,
                int(is_listed),
                len(fresh),
                *(word for pair in zip(fresh, parts.entries, strict=True) for word in pair),
                len(sent),
                *(word for item in sent.items() for word in item),
                len(known),
                *known,
                len(kept),
                *kept,
            )
            if outcome in (b"stored", b"due"):
                self.stored.note(thread_id, (*parts.tops, *parts.chunks, *sent))
                if outcome == b"due":
                    await self._renew_writes()
                return
            if outcome == b"unlisted":
                await enlist()
                is_listed = True
                continue
            if outcome == b"disinherited":  # the thread expired, or was trimmed, since it was read
                fresh |= {field.decode(): kept.pop(field.decode()) for field in missing}
                parts = self._apart(fresh, is_stored)
                sent = self._new(parts)
                continue
            for digest in missing:
                body = parts.body(digest)
                if body is None:  # the process knew it to be stored, and a sweep took it
                    parts = self._apart(fresh, lambda _: False)
                    sent = {}
                    break
                sent[digest] = body

    async def put_writes(
        self, place: Place, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> bool:
        """Whether the thread has a checkpoint, so that it is listed."""
        keys, words = self.keys, []
        for position, (channel, value) in enumerate(writes):
            index = WRITES_IDX_MAP.get(channel, position)
            field = write_field(task_id, index)
            sealed = self._sealed(value, "write", place.field, field)
            entry = msgpack.packb([channel, *sealed, task_path])
            # What a task has written stands when the task runs again; errors and interrupts,
            # which have negative indexes, are replaced.
            words += [field, entry, int(index < 0)]
        has_rows, is_due = await self.control.run(
            LUA / "put_writes.lua",
            [keys.written, keys.renewed, keys.writes(place), *keys.fixed],
            place.field,
            self.lives,
            self._writes_live,
            *words,
        )
        if is_due:
            await self._renew_writes()
        return bool(has_rows)

    async def drop(self, places: Iterable[Place]) -> None:
        """Remove checkpoints, with their pending writes."""
        keys, rest = self.keys, list(places)
        for start in range(0, len(rest), BATCH):
            batch = rest[start : start + BATCH]
            await self.control.run(
                LUA / "drop.lua",
                [keys.rows, keys.order, keys.runs, keys.written, *map(keys.writes, batch)],
                *(place.field for place in batch),
            )

    async def sweep(self) -> None:
        """Remove values that no checkpoint needs any more. Begins again if one is put meanwhile."""
        keys = self.keys
        while True:
            async with self.control.guard() as client:
                puts = await client.get(keys.puts) or b""
            fields = await self._fields_of(await self.places())
            levels = await self._levels(await self._get(keys.values, fields))
            needed = set().union(*levels)
            async with self.control.guard() as client:
                stale = [f for f in await client.hkeys(keys.values) if f not in fields]
                unneeded = [d for d in await client.hkeys(keys.items) if d not in needed]
            arguments = [puts, len(stale), *stale, *unneeded]
            if await self.control.run(
                LUA / "sweep.lua", [keys.values, keys.items, keys.puts], *arguments
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
        """Copy everything, what others build on first: a copy that breaks off has nothing of which
        it lacks a part, and `put.lua` relies on that."""
        places = await self.places()
        fields = await self._fields_of(places)
        for level in await self._levels(await self._get(self.keys.values, fields)):
            await self._copy_fields(self.keys.items, target.keys.items, level)
        await self._copy_fields(self.keys.values, target.keys.values, fields)
        async with self.control.guard() as client:
            written = [Place.parse(raw) for raw in await client.smembers(self.keys.written)]
            if written:
                await client.sadd(target.keys.written, *(place.field for place in written))
        for place in written:
            await self._copy_hash(self.keys.writes(place), target.keys.writes(place))
        stored = [place.field.encode() for place in places]
        for name in ("rows", "runs"):
            await self._copy_fields(getattr(self.keys, name), getattr(target.keys, name), stored)
        async with self.control.guard() as client:
            for start in range(0, len(places), BATCH):
                batch = places[start : start + BATCH]
                await client.zadd(target.keys.order, dict.fromkeys((p.field for p in batch), 0))
            await client.incr(target.keys.puts)
            if target.lives:
                for key in target.keys.fixed:
                    await client.pexpire(key, target.lives)
                for key in (target.keys.written, *map(target.keys.writes, written)):
                    await client.pexpire(key, target._writes_live)

    def _sealed(self, value: Any, *place: str | bytes) -> Serialized:
        return self.sealing.seal(self.serde.dumps_typed(value), *place)

    def _apart(self, values: Mapping[str, Any], is_stored: Callable[[bytes], bool]) -> Parts:
        """values: by their fields"""
        return take_apart(values, self.serde, self.memo, is_stored, self.sealing)

    def _packed(self, place: Place, row: Row) -> bytes:
        """A MessagePack that the scripts' one can read, which knows no bytes."""
        versions = row.checkpoint["channel_versions"]
        apart = {"channel_values"}
        if all(type(version) is str for version in versions.values()):
            apart.add("channel_versions")
        checkpoint = {key: value for key, value in row.checkpoint.items() if key not in apart}
        packed: bytes = msgpack.packb(
            [
                self._sealed(checkpoint, "checkpoint", place.field),
                self._sealed(row.metadata, "metadata", place.field),
                row.parent,
                {channel: str(version) for channel, version in versions.items()},
                sorted(row.valued),
            ],
            use_bin_type=False,
        )
        return packed

    def _new(self, parts: Parts) -> dict[bytes, bytes]:
        """What is sent without asking: chunks that are new to this process, if they are as few as
        a list that has grown has, and their items that are new to it."""
        new: dict[bytes, bytes] = {}
        level = list(parts.tops)
        while level:
            found = {}
            for digest in level:
                body = parts.body(digest)
                if body is not None and not self.stored.has(self.keys.thread_id, digest):
                    found[digest] = body
            new |= found
            level = [below for digest in found for below in parts.below(digest)]
        chunks = sum(digest in parts.chunks for digest in new)
        return new if chunks <= _FEW * parts.depths else {}

    async def _fields_of(self, places: Sequence[Place]) -> set[bytes]:
        """Of the values that checkpoints have, of those that are there."""
        fields: set[bytes] = set()
        async for batch in self._batches(places):
            for place, row in (await self.rows(batch)).items():
                versions = row.checkpoint["channel_versions"].items()
                fields |= {value_field(place.namespace, *item).encode() for item in versions}
        return fields

    async def _levels(self, entries: Mapping[bytes, bytes]) -> list[set[bytes]]:
        """Items, then chunks of items, then chunks of those and so on, that values are made of, by
        the values' entries."""
        trees = [tree for entry in entries.values() if (tree := tree_of(entry)) is not None]
        levels: list[set[bytes]] = [
            set() for _ in range(1 + max((t.depth for t in trees), default=0))
        ]
        for tree in trees:
            levels[tree.depth].update(tree.tops)
        for depth in range(len(levels) - 1, 0, -1):
            for body in (await self._get(self.keys.items, levels[depth])).values():
                levels[depth - 1].update(split(body))
        return levels

    @property
    def _writes_live(self) -> int:
        """They outlive the thread by as long as `_renew_writes` may be late."""
        return self.lives * 3 // 2

    async def _renew_writes(self) -> None:
        """Have the writes of earlier checkpoints, which later ones may be rebuilt from, live on
        with the thread: all of them, but not at every step."""
        async with self.control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.pexpire(self.keys.written, self._writes_live)
            for raw in await client.smembers(self.keys.written):
                pipeline.pexpire(self.keys.writes(Place.parse(raw)), self._writes_live)
            pipeline.set(self.keys.renewed, b"", px=max(1, self.lives // 2))
            await pipeline.execute()

    async def _copy_fields(self, source: str, target: str, fields: Iterable[bytes]) -> None:
        """Those that are there."""
        rest = list(fields)
        for start in range(0, len(rest), BATCH):
            found = await self._get(source, rest[start : start + BATCH])
            if found:
                async with self.control.guard() as client:
                    await client.hset(target, mapping=found)

    async def _copy_hash(self, source: str, target: str) -> None:
        cursor = 0
        async with self.control.guard() as client:
            while True:
                cursor, found = await client.hscan(source, cursor, count=BATCH)
                if found:
                    await client.hset(target, mapping=found)
                if not cursor:
                    return


def _by_field(place: Place, values: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {
        value_field(place.namespace, channel, version): value
        for channel, (version, value) in values.items()
    }
