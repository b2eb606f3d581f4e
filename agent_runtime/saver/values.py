"""How channel values are stored: lists by their items, so that a growing one is not stored anew.

A conversation's channel is a list that every step makes longer, and LangGraph hands it over whole
each time. Its items are stored once each, under their digests; the digests in chunks of CHUNK,
stored once each as well; a value is the list of its chunks. A checkpoint after n messages costs
n / CHUNK digests and what is new.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack
from langgraph.checkpoint.serde.base import SerializerProtocol

CHUNK = 64  # items
DIGEST_BYTES = 16
LIST_BYTE = 0x92  # that the entry of a list, a pair, begins with in msgpack; others are triples
_SHORT = 4  # a list of fewer items is stored as it is
_PLAIN, _LIST = 0, 1


@dataclass
class Parts:
    """What a value is stored as.

    entry:  the value, or its chunks' digests
    chunks: digest -> digests of CHUNK items or fewer, one after another
    items:  digest -> item, serialized
    """

    entry: bytes
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    items: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)


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


def take_apart(value: Any, serde: SerializerProtocol) -> Parts:
    if type(value) is not list or len(value) < _SHORT:
        return Parts(msgpack.packb([_PLAIN, *serde.dumps_typed(value)]))
    parts = Parts(b"")
    digests = []
    for item in value:
        serialized = serde.dumps_typed(item)
        digests.append(_digest(b"item", serialized[0].encode(), serialized[1]))
        parts.items[digests[-1]] = serialized
    names = []
    for start in range(0, len(digests), CHUNK):
        chunk = b"".join(digests[start : start + CHUNK])
        names.append(_digest(b"chunk", b"", chunk))
        parts.chunks[names[-1]] = chunk
    parts.entry = msgpack.packb([_LIST, b"".join(names)])
    return parts


def chunks_of(entry: bytes) -> list[bytes]:
    """Digests of the chunks that a stored value needs."""
    kind, *rest = msgpack.unpackb(entry)
    return split(rest[0]) if kind == _LIST else []


def put_together(entry: bytes, found: Mapping[bytes, bytes], serde: SerializerProtocol) -> Any:
    """found: the chunks and items that the value needs. Raises KeyError without one of them."""
    kind, *rest = msgpack.unpackb(entry)
    if kind == _PLAIN:
        return serde.loads_typed(tuple(rest))
    return [
        serde.loads_typed(tuple(msgpack.unpackb(found[item])))
        for chunk in split(rest[0])
        for item in split(found[chunk])
    ]


def split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def _digest(kind: bytes, form: bytes, content: bytes) -> bytes:
    """form: how the content is serialized"""
    digest = hashlib.blake2b(form + b"\0", digest_size=DIGEST_BYTES, person=kind)
    digest.update(content)
    return digest.digest()
