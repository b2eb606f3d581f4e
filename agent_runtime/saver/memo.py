"""Messages that this process has serialized or made before, so that it need not do so again.

What is known of a message is known of its contents, never of the object: a message that has been
changed, however deep inside, is another one. And whoever is given messages is given objects of
their own.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import ormsgpack
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

# Classes that are serialized by nothing but what is in their fields. A subclass could do otherwise.
_KINDS: dict[type, int] = {
    kind: number
    for number, kind in enumerate(
        (AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage)
    )
}
# Without these, a value of another type would pass for the one that it is packed as.
_STRICT = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_HELD = 1024  # chunks of a thread that a read says it has

Owner = tuple[SerializerProtocol, str]
"""What makes the messages, which may refuse some classes, and the thread."""


def fingerprint(messages: Sequence[Any]) -> bytes | None:
    """Of all that they hold; None if one is of another class, or holds anything but what JSON has
    and bytes."""
    held: list[Any] = []
    for message in messages:
        kind = _KINDS.get(type(message))
        if kind is None:
            return None
        held += (kind, message.__dict__, message.__pydantic_extra__)
    try:
        return hashlib.sha256(ormsgpack.packb(held, option=_STRICT)).digest()
    except ormsgpack.MsgpackEncodeError:
        return None


class Memo:
    """Chunks by what their messages hold, and messages by their chunk: pickles, which this process
    has made itself and keeps to itself."""

    def __init__(self, *, most_names: int = 1 << 16, most_bytes: int = 64 << 20) -> None:
        """most_names, most_bytes: of chunks and of messages that are remembered"""
        self._most_names = most_names
        self._most_bytes = most_bytes
        self._names: OrderedDict[bytes, bytes] = OrderedDict()
        self._made: OrderedDict[Owner, OrderedDict[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def name(self, fingerprint: bytes) -> bytes | None:
        """The chunk that messages with this fingerprint are stored in, if it is known."""
        if fingerprint in self._names:
            self._names.move_to_end(fingerprint)
        return self._names.get(fingerprint)

    def learn(self, fingerprint: bytes, name: bytes) -> None:
        self._names[fingerprint] = name
        if len(self._names) > self._most_names:
            self._names.popitem(last=False)

    def held(self, owner: Owner) -> dict[bytes, bytes]:
        """Chunk -> messages for `remade`, of the chunks that were read last."""
        made: OrderedDict[bytes, bytes] = self._made.get(owner, OrderedDict())
        return {name: made[name] for name, _ in zip(reversed(made), range(_HELD), strict=False)}

    def remade(self, owner: Owner, name: bytes, held: bytes) -> list[Any]:
        """The messages of a chunk, as new as those that a serializer makes."""
        self._use(owner, name, held)
        messages: list[Any] = pickle.loads(held)
        return messages

    def keep(self, owner: Owner, name: bytes, messages: Sequence[Any]) -> None:
        """messages: of a chunk, just made"""
        if fingerprint(messages) is not None:
            self._use(owner, name, pickle.dumps(messages))

    def _use(self, owner: Owner, name: bytes, held: bytes) -> None:
        made = self._made.setdefault(owner, OrderedDict())
        self._made.move_to_end(owner)
        self._bytes += len(held) - len(made.get(name, b""))
        made[name] = held
        made.move_to_end(name)
        while self._bytes > self._most_bytes:
            oldest, chunks = next(iter(self._made.items()))
            self._bytes -= len(chunks.popitem(last=False)[1])
            if not chunks:
                del self._made[oldest]
