"""How channel values are stored: lists by their items, so that a growing one is not stored anew.

    value ── top ┬─ chunk ┬─ chunk of items ┬─ item
                 ├─ chunk ├─ …              ├─ …      CHUNK names in a chunk, CHUNK tops at most
                 └─ …     └─ …              └─ …

A conversation's channel is a list that every step makes longer, and LangGraph hands it over whole
each time. Its items are stored once each, under their digests; the digests in chunks, stored once
each as well; more chunks than CHUNK in chunks again. A checkpoint costs what is new and the last
chunk of each level, however long the list is.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack
from langgraph.checkpoint.serde.base import SerializerProtocol

# A delta channel's whole value, which comes now and then; LangGraph has no public name for it.
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agent_runtime.saver.memo import Memo, fingerprint
from agent_runtime.saver.sealing import CLEAR, Sealing

CHUNK = 64  # digests
DIGEST_BYTES = 16
_SHORT = 4  # a list of fewer items is stored as it is
_PLAIN = 0


class Stored:
    """Chunks and items that this process knows to have been stored: what is not among them is sent
    without asking. They may have been removed since, and then the store says so."""

    def __init__(self, *, most: int = 1 << 16) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def has(self, thread_id: str, digest: bytes) -> bool:
        return (thread_id, digest) in self._known

    def note(self, thread_id: str, digests: Iterable[bytes]) -> None:
        for digest in digests:
            self._known[thread_id, digest] = None
            self._known.move_to_end((thread_id, digest))
        while len(self._known) > self._most:
            self._known.popitem(last=False)


class Tree(NamedTuple):
    """The entry of a list: a pair in msgpack, others are triples.

    depth: levels of chunks, one at least; tops: digests of the uppermost
    """

    depth: int
    is_snapshot: bool
    tops: list[bytes]

    def packed(self) -> bytes:
        return bytes(msgpack.packb([2 * self.depth + self.is_snapshot, b"".join(self.tops)]))


@dataclass
class Parts:
    """What values are stored as.

    entries: of the values, in their order
    tops:    digests that the entries name
    depths:  of all their trees together
    chunks:  digest -> digests of CHUNK chunks or items or fewer, one after another
    items:   digest -> item, serialized; it is sealed when it is sent
    """

    sealing: Sealing = CLEAR

    entries: list[bytes] = field(default_factory=list)
    tops: list[bytes] = field(default_factory=list)
    depths: int = 0
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    items: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)

    def below(self, digest: bytes) -> list[bytes]:
        """Of a chunk that is here; else none."""
        return split(self.chunks.get(digest, b""))

    def body(self, digest: bytes) -> bytes | None:
        """None of a chunk that was not taken apart, being stored already."""
        if digest in self.items:
            return bytes(msgpack.packb(self.sealing.seal(self.items[digest], "item", digest)))
        return self.chunks.get(digest)


def take_apart(
    values: Mapping[str, Any],
    serde: SerializerProtocol,
    memo: Memo,
    is_stored: Callable[[bytes], bool],
    sealing: Sealing = CLEAR,
) -> Parts:
    """values: by their fields in the store
    is_stored: whether a chunk is; its messages, if they are in the memo, are not serialized"""
    parts = Parts(sealing=sealing)
    for where, value in values.items():
        is_snapshot = type(value) is _DeltaSnapshot
        items = value.value if is_snapshot else value
        if type(items) is not list or len(items) < _SHORT:
            sealed = sealing.seal(serde.dumps_typed(value), "value", where)
            parts.entries.append(msgpack.packb([_PLAIN, *sealed]))
            continue
        names = [
            _chunk_of_items(items[start : start + CHUNK], parts, serde, memo, is_stored)
            for start in range(0, len(items), CHUNK)
        ]
        depth = 1
        while len(names) > CHUNK:
            names = [_chunk(names[at : at + CHUNK], parts) for at in range(0, len(names), CHUNK)]
            depth += 1
        parts.entries.append(Tree(depth, is_snapshot, names).packed())
        parts.tops += names
        parts.depths += depth
    return parts


def tree_of(entry: bytes) -> Tree | None:
    """None of a value that is stored as it is."""
    form, *rest = msgpack.unpackb(entry)
    return Tree(form >> 1, bool(form & 1), split(rest[0])) if form else None


def put_together(
    entry: bytes,
    bodies: Mapping[bytes, bytes],
    make: Callable[[bytes], Sequence[Any]],
) -> Any:
    """A list, of its tree. bodies: of the chunks that it needs; make: from a chunk of items, the
    items. Raises KeyError if a chunk is not there."""
    tree = tree_of(entry)
    assert tree is not None, "asked for with the entries of lists only"
    names = tree.tops
    for _ in range(tree.depth - 1):
        names = [below for name in names for below in split(bodies[name])]
    items = [item for name in names for item in make(name)]
    return _DeltaSnapshot(items) if tree.is_snapshot else items


def split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def _chunk_of_items(
    items: list[Any],
    parts: Parts,
    serde: SerializerProtocol,
    memo: Memo,
    is_stored: Callable[[bytes], bool],
) -> bytes:
    seen = fingerprint(items) if len(items) == CHUNK else None
    if seen is not None:
        known = memo.name(seen)
        if known is not None and is_stored(known):
            return known
        # Another thread may change the messages meanwhile; what is remembered must be true.
        items = pickle.loads(pickle.dumps(items))
        seen = fingerprint(items)
    digests = []
    for item in items:
        serialized = serde.dumps_typed(item)
        key = parts.sealing.digest_key
        digests.append(_digest(b"item", serialized[0].encode(), serialized[1], key))
        parts.items[digests[-1]] = serialized
    name = _chunk(digests, parts)
    if seen is not None:
        memo.learn(seen, name)
    return name


def _chunk(digests: Sequence[bytes], parts: Parts) -> bytes:
    body = b"".join(digests)
    name = _digest(b"chunk", b"", body, parts.sealing.digest_key)
    parts.chunks[name] = body
    return name


def _digest(kind: bytes, form: bytes, content: bytes, key: bytes) -> bytes:
    """form: how the content is serialized; key: empty for none"""
    digest = hashlib.blake2b(form + b"\0", digest_size=DIGEST_BYTES, person=kind, key=key)
    digest.update(content)
    return digest.digest()
