"""LangGraph's long-term memory on plain Redis or Valkey.

All namespaces under one first label are in one slot:

    <prefix>:{memory:<label>}:items   hash: namespace, key -> value, times
    <prefix>:{memory:<label>}:order   sorted set of the same fields, by name
    <prefix>:memories                 set of first labels
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from agent_runtime.errors import BadRequest, NoSemanticSearch
from agent_runtime.saver.connected import Connected
from agent_runtime.saver.sealing import CLEAR, Sealing
from state_store.connection import Control

_WRITE = Path(__file__).with_name("lua") / "write.lua"
_BATCH = 500  # items read together
_APART, _LEVEL = "\0", "."

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, wanted: bool(found == wanted),
    "$ne": lambda found, wanted: bool(found != wanted),
    "$gt": lambda found, wanted: bool(found > wanted),
    "$gte": lambda found, wanted: bool(found >= wanted),
    "$lt": lambda found, wanted: bool(found < wanted),
    "$lte": lambda found, wanted: bool(found <= wanted),
}


class _Place(NamedTuple):
    namespace: tuple[str, ...]
    key: str

    @property
    def field(self) -> bytes:
        return f"{_LEVEL.join(self.namespace)}{_APART}{self.key}".encode()

    @classmethod
    def parse(cls, field: bytes) -> _Place:
        namespace, _, key = field.decode().partition(_APART)
        return cls(tuple(namespace.split(_LEVEL)), key)


@dataclass(frozen=True)
class _Entry:
    """created, updated: seconds since 1970; ttl: minutes; expires: seconds since 1970; stored: what
    it was read as, empty for a new one"""

    value: dict[str, Any]
    created: float
    updated: float
    ttl: float | None
    expires: float | None
    stored: bytes = b""

    @classmethod
    def new(cls, value: Mapping[str, Any], ttl: float | None, created: float | None) -> _Entry:
        now = time.time()
        expires = None if ttl is None else now + 60 * ttl
        return cls(dict(value), now if created is None else created, now, ttl, expires)

    @property
    def dead(self) -> bool:
        return self.expires is not None and self.expires <= time.time()

    def refreshed(self) -> _Entry:
        return self if self.ttl is None else replace(self, expires=time.time() + 60 * self.ttl)


class TorporStore(Connected, BaseStore):
    """Items by namespace and key; no semantic search.

    Operations of one batch are done in their order. Every method raises StoreUnavailable when the
    store does not answer.
    """

    supports_ttl = True

    def __init__(
        self,
        control: Control,
        *,
        prefix: str = "torpor:graph",
        ttl: TTLConfig | None = None,
        sealing: Sealing = CLEAR,
    ) -> None:
        """sealing: of a tenant's values, see `connect`"""
        self.ttl_config = ttl
        self._sealing = sealing
        self._control = control
        self._prefix = prefix
        self._serde = JsonPlusSerializer()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """As `abatch`. Raises AsyncOnly in the thread of its event loop, and without one."""
        return self._awaited(self.abatch(ops))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Raises NoSemanticSearch for a search with a query, BadRequest for a filter by an operator
        that there is not."""
        results: list[Result] = []
        for op in ops:
            validate_op_namespace(op)
            if isinstance(op, GetOp):
                results.append(await self._read(op))
            elif isinstance(op, PutOp):
                await self._write(op)
                results.append(None)
            elif isinstance(op, SearchOp):
                results.append(await self._search(op))
            else:
                results.append(await self._namespaces(op))
        return results

    async def _read(self, op: GetOp) -> Item | None:
        place = _Place(op.namespace, op.key)
        found = await self._entries(op.namespace[0], [place])
        if place not in found:
            return None
        await self._refresh(found, op.refresh_ttl)
        return Item(**_item(place, found[place]))

    async def _write(self, op: PutOp) -> None:
        place = _Place(op.namespace, op.key)
        if op.value is None:
            await self._replace(place, None)
            return
        before = await self._entries(op.namespace[0], [place])
        created = before[place].created if place in before else None
        async with self._control.guard() as client:
            await client.sadd(self._roots, op.namespace[0])
        await self._replace(place, _Entry.new(op.value, op.ttl, created))

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.query:
            raise NoSemanticSearch(
                "TorporStore has no index to search by meaning; leave `query` out, or use a store "
                "with embeddings."
            )
        found: dict[_Place, _Entry] = {}
        skip = op.offset
        async for place, entry in self._under(op.namespace_prefix):
            if len(found) >= op.limit:
                break
            if op.filter and not _matches(entry.value, op.filter):
                continue
            if skip:
                skip -= 1
                continue
            found[place] = entry
        await self._refresh(found, op.refresh_ttl)
        return [SearchItem(**_item(place, entry), score=None) for place, entry in found.items()]

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        async for place, _ in self._under(()):
            if all(_fits(place.namespace, condition) for condition in op.match_conditions or ()):
                found.add(place.namespace[: op.max_depth])
        return sorted(found)[op.offset : op.offset + op.limit]

    async def _under(self, prefix: tuple[str, ...]) -> AsyncIterator[tuple[_Place, _Entry]]:
        """What is in a namespace and in those below it, in their order."""
        async with self._control.guard() as client:
            listed = [prefix[0].encode()] if prefix else await client.smembers(self._roots)
        for root in sorted(raw.decode() for raw in listed):
            name = _LEVEL.join(prefix).encode()
            within = [(name + b"\0", name + b"\1"), (name + b".", name + b"/")] if name else []
            for lowest, highest in within or [(b"", b"")]:
                async with self._control.guard() as client:
                    fields = await client.zrangebylex(
                        self._order(root), b"[" + lowest if name else b"-",
                        b"(" + highest if name else b"+",
                    )  # fmt: skip
                for start in range(0, len(fields), _BATCH):
                    places = [_Place.parse(field) for field in fields[start : start + _BATCH]]
                    for found in (await self._entries(root, places)).items():
                        yield found

    async def _entries(self, root: str, places: Sequence[_Place]) -> dict[_Place, _Entry]:
        """Those that are there; the expired are removed."""
        if not places:
            return {}
        async with self._control.guard() as client:
            stored = await client.hmget(self._items(root), [place.field for place in places])
        found: dict[_Place, _Entry] = {}
        for place, packed in zip(places, stored, strict=True):
            if packed is None:
                continue
            entry = self._unpack(place, packed)
            if entry.dead:
                await self._replace(place, None, read=entry)
            else:
                found[place] = entry
        return found

    async def _refresh(self, found: Mapping[_Place, _Entry], wanted: bool) -> None:
        for place, entry in found.items():
            if wanted and entry.ttl is not None:
                await self._replace(place, entry.refreshed(), read=entry)

    async def _replace(
        self, place: _Place, entry: _Entry | None, *, read: _Entry | None = None
    ) -> None:
        """read: what must still be there for it to be replaced; None for anything"""
        root = place.namespace[0]
        await self._control.run(
            _WRITE,
            [self._items(root), self._order(root)],
            place.field,
            b"" if read is None else read.stored,
            b"" if entry is None else self._pack(place, entry),
        )

    @property
    def _roots(self) -> str:
        return f"{self._prefix}:memories"

    def _items(self, root: str) -> str:
        return f"{self._prefix}:{{memory:{root}}}:items"

    def _order(self, root: str) -> str:
        return f"{self._prefix}:{{memory:{root}}}:order"

    def _pack(self, place: _Place, entry: _Entry) -> bytes:
        value = self._sealing.seal(self._serde.dumps_typed(entry.value), "memory", place.field)
        times = [entry.created, entry.updated, entry.ttl, entry.expires]
        return bytes(msgpack.packb([value, *times]))

    def _unpack(self, place: _Place, packed: bytes) -> _Entry:
        (kind, body), *times = msgpack.unpackb(packed)
        serialized = self._sealing.open((kind, body), "memory", place.field)
        return replace(_Entry(self._serde.loads_typed(serialized), *times), stored=packed)


def _item(place: _Place, entry: _Entry) -> dict[str, Any]:
    return {
        "value": entry.value,
        "key": place.key,
        "namespace": place.namespace,
        "created_at": datetime.fromtimestamp(entry.created, UTC),
        "updated_at": datetime.fromtimestamp(entry.updated, UTC),
    }


def _matches(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(_agrees(value.get(name), condition) for name, condition in wanted.items())


def _agrees(found: Any, condition: Any) -> bool:
    """A condition is a value, a mapping of operators, or a mapping of conditions on fields."""
    if not isinstance(condition, dict):
        return bool(found == condition)
    operators = [name for name in condition if name.startswith("$")]
    if unknown := [name for name in operators if name not in _COMPARE]:
        raise BadRequest(f"{unknown[0]} is not an operator; use {', '.join(_COMPARE)}.")
    if operators:
        try:
            return all(_COMPARE[name](found, condition[name]) for name in operators)
        except TypeError:  # the item has no such field, or one of another type
            return False
    return isinstance(found, dict) and _matches(found, condition)


def _fits(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
