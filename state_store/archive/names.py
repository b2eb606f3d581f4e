"""Names in the archive, and the generation that tells two stays of one object apart.

    <store>/<kind>/<fingerprint>/<rank>/<first 2 hex digits>/<tag>.<generation>
    <store>/file/<lineage>/<first 2 hex digits>/<blob>.<generation>

`<store>` is the id that a store gives itself at first use: two stores that share an archive never
take each other's objects for rubbish. A generation is used for one attempt to move one object out
and never again, so what lies under it is written once, and is either all there or not needed.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple, Self, cast

from state_store.errors import CorruptObject
from state_store.layout import Kind, ObjectNames, ObjectRef

PART_SUFFIX = ".part"
"""Of a file that is still being written, see `directory.py`."""

_GENERATION = r"([0-9a-f]{16})-(\d+)-(\d+)-([0-9a-f]{16})"
_NAME = re.compile(
    r"[0-9a-f]{16}/(kv|state)/([0-9a-f]{32})/(\d+)/[0-9a-f]{2}/"
    r"([0-9a-f]{64})(?:\.(\d+))?\.(" + _GENERATION + r")(\.part)?"
)
_FILE = re.compile(
    r"[0-9a-f]{16}/file/([0-9a-f]{16})/[0-9a-f]{2}/([0-9a-f]{64})\.(" + _GENERATION + r")(\.part)?"
)


class Generation(NamedTuple):
    """Value of an object's cold key: everything that is needed to find its bytes.

    store:   id of the store that moved it out
    ranks:   how many ranks' bytes lie under it
    started: when the move began, whole seconds of the store server's clock
    """

    store: str
    ranks: int
    started: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.store}-{self.ranks}-{self.started}-{self.nonce}"

    @classmethod
    def new(cls, store: str, ranks: int, started: int) -> Self:
        return cls(store, ranks, started, secrets.token_hex(8))

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Raises CorruptObject."""
        text = text.decode("ascii", "replace") if isinstance(text, bytes) else text
        match = re.fullmatch(_GENERATION, text)
        if match is None:
            raise CorruptObject(f"{text[:120]!r} is not a generation of the archive.")
        store, ranks, started, nonce = match.groups()
        return cls(store, int(ranks), int(started), nonce)


class StoredName(NamedTuple):
    """What a name in the archive says. `partial`: its writing was never finished."""

    names: ObjectNames
    ref: ObjectRef
    generation: Generation
    partial: bool


class StoredFileName(NamedTuple):
    """As `StoredName`, of a content of a lineage's files. blob: its name in the store"""

    lineage: str
    blob: str
    generation: Generation
    partial: bool


def object_name(names: ObjectNames, ref: ObjectRef, generation: Generation) -> str:
    return (
        f"{generation.store}/{ref.kind}/{names.fingerprint_id}/{names.rank}/"
        f"{ref.page_hash[:2]}/{ref.tag}.{generation}"
    )


def all_ranks(names: ObjectNames, ref: ObjectRef, generation: Generation) -> list[str]:
    """Names of all that lies under a generation, by rank."""
    return [
        object_name(ObjectNames(names.prefix, names.fingerprint_id, rank), ref, generation)
        for rank in range(generation.ranks)
    ]


def parse_name(prefix: str, name: str) -> StoredName | None:
    """None for a name that this package never gave out.

    prefix: of the store's keys, for the names that are returned
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    kind, fingerprint_id, rank, page_hash, part, generation = match.groups()[:6]
    return StoredName(
        ObjectNames(prefix, fingerprint_id, int(rank)),
        ObjectRef(cast(Kind, kind), page_hash, int(part or 0)),
        Generation.parse(generation),
        match.group(match.lastindex or 0) == PART_SUFFIX,
    )


def file_name(lineage: str, blob: str, generation: Generation) -> str:
    return f"{generation.store}/file/{lineage}/{blob[:2]}/{blob}.{generation}"


def parse_file_name(name: str) -> StoredFileName | None:
    """None for a name that is not of a content."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    lineage, blob, generation = match.groups()[:3]
    partial = match.group(match.lastindex or 0) == PART_SUFFIX
    return StoredFileName(lineage, blob, Generation.parse(generation), partial)
