"""How channel values are stored: lists by their items, so that a growing one is not stored anew.

A conversation's channel is a list that every step makes longer, and LangGraph hands it over whole
each time. Its items are stored once each, under their digests; the digests in chunks of CHUNK,
stored once each as well; a value is the list of its chunks. A checkpoint after n messages costs
n / CHUNK digests and what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
from langgraph.checkpoint.serde.base import SerializerProtocol

CHUNK = 64  # items
DIGEST_BYTES = 16
_SHORT = 4  # a list of fewer items is stored as it is
_PLAIN, _LIST = 0, 1


@dataclass
class Parts:
    """What a value is stored as.

    entry:  the value, or its chunks' digests
    chunks: digest -> digests of CHUNK items or fewer, one after another
    items:  digest -> item
    """

    entry: bytes
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    items: dict[bytes, bytes] = field(default_factory=dict)


def take_apart(value: Any, serde: SerializerProtocol) -> Parts:
    if type(value) is not list or len(value) < _SHORT:
        return Parts(msgpack.packb([_PLAIN, *serde.dumps_typed(value)]))
    parts = Parts(b"")
    digests = []
    for item in value:
        packed = bytes(msgpack.packb(serde.dumps_typed(item)))
        digests.append(_digest(b"item", packed))
        parts.items[digests[-1]] = packed
    names = []
    for start in range(0, len(digests), CHUNK):
        chunk = b"".join(digests[start : start + CHUNK])
        names.append(_digest(b"chunk", chunk))
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


def _digest(kind: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES, person=kind).digest()


__all__: Sequence[str] = ("CHUNK", "Parts", "chunks_of", "put_together", "split", "take_apart")
