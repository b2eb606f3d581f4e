"""What an export says about itself, and which tensors the file must have because of it.

Rows follow from the token log alone: row `i` of a format's pages is page `i` of the history, so
no row needs a name, and none can be missing or there twice. States are rows in the order of their
boundaries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from state_store.encodings import ECONOMIES
from state_store.files import BLOB_BYTES
from state_store.fingerprint import Fingerprint
from state_store.identity import page_hashes
from state_store.layout import KINDS, Kind
from state_store.portable.container import Tensor

VERSIONS = (1, 2)
"""The second has contents: files, and records of effects."""
MANIFEST_LIMIT = 16 << 20  # bytes; a small one can still become many objects
ROW_LIMIT = 1 << 30  # bytes of one page or state on one rank: one has to fit into memory
SUM_BYTES = 32
_DEPTH = 32  # of what callers keep beside sessions and snapshots
_RANKS = 1024
_TOKENS = 1 << 28
_PLAIN = (type(None), bool, int, float, str, bytes)

CONTENT_LIMIT = 64 << 20  # bytes of one content, which has to fit into memory
NEEDS_LIMIT = 1 << 15  # contents of one set of files: a store looks for them all at once
_ALL_NEEDS = 1 << 21
_REPEATED = 64 << 20  # bytes: a body is stored with each set that has it

MANIFEST, TOKENS, CONTENTS = "manifest", "tokens", "contents"


class Committed(BaseModel):
    """One snapshot. tokens: new ones; checkpoints: tokens before each state that it keeps besides
    the one at its boundary; format: index of its state's format; files: index of the set that goes
    with it; the rest as in `records.Snapshot`. Its id was that in the store that it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(max_length=128)]
    tokens: Annotated[int, Field(ge=0, le=_TOKENS)]
    boundary: Annotated[int, Field(ge=0, le=_TOKENS)]
    checkpoints: list[Annotated[int, Field(gt=0, le=_TOKENS)]]
    format: Annotated[int, Field(ge=0)]
    meta: dict[str, Any]
    created_at: float
    files: Annotated[int, Field(ge=0)] | None = None


class Content(BaseModel):
    """sha256: 32 bytes; size: bytes"""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: Annotated[bytes, Field(min_length=SUM_BYTES, max_length=SUM_BYTES)]
    size: Annotated[int, Field(ge=0, le=CONTENT_LIMIT)]


class SetOfFiles(BaseModel):
    """Numbers of contents: the set's body, and the blobs that it needs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    body: Annotated[int, Field(ge=0)]
    needs: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=NEEDS_LIMIT)]


class Format(BaseModel):
    """A state format that snapshots are in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    fingerprint: Fingerprint

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> Self:
        return cls(id=fingerprint.id, fingerprint=fingerprint)


class Manifest(BaseModel):
    """session_id, tenant_encrypts: where it came from, and whether it was encrypted there;
    salt:      of the page names in the file; no tenant's
    digests:   SHA-256 of every tensor but the payloads, whose rows have sums, and this one
    snapshots: root first
    contents:  of files and effects, in the order of their tensor
    effects:   numbers of the contents that are records of effects
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1, 2]
    session_id: Annotated[str, Field(max_length=128)]
    tenant_encrypts: bool
    economy: str
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    labels: dict[str, str]
    meta: dict[str, Any]
    created_at: float
    formats: Annotated[list[Format], Field(min_length=1, max_length=16)]
    snapshots: list[Committed]
    digests: dict[str, bytes]
    contents: list[Content] = []
    files: list[SetOfFiles] = []
    effects: list[Annotated[int, Field(ge=0)]] = []

    def pack(self) -> bytes:
        """Raises ValueError for a manifest that could not be read back."""
        packed = bytes(msgpack.packb(self.model_dump(mode="python", exclude=self._absent())))
        Manifest.unpack(packed)
        return packed

    @classmethod
    def unpack(cls, packed: bytes | bytearray) -> Self:
        """Raises ValueError for what is none, or contradicts itself."""
        if len(packed) > MANIFEST_LIMIT:
            raise ValueError(f"the manifest has {len(packed)} bytes, {MANIFEST_LIMIT} are allowed")
        raw = msgpack.unpackb(packed, max_ext_len=0, strict_map_key=True)
        _require_plain(raw)
        found = cls.model_validate(raw)
        found._check()
        return found

    def _absent(self) -> Any:
        """What the first version does not have, for a file that has none of it."""
        if self.version > 1:
            return None
        new = dict.fromkeys(("contents", "files", "effects"), True)
        return {**new, "snapshots": {"__all__": {"files"}}}

    @property
    def total_tokens(self) -> int:
        return sum(snapshot.tokens for snapshot in self.snapshots)

    def pages(self, index: int) -> int:
        """Pages of one format, from the beginning of the history."""
        size = self.formats[index].fingerprint.page_size
        return max((s.boundary for s in self.snapshots if s.format == index), default=0) // size

    def boundaries(self, index: int) -> list[int]:
        """Where there are states of one format."""
        found = set()
        for place, snapshot in enumerate(self.snapshots):
            if snapshot.format == index and snapshot.boundary > self.base(place):
                found.update([*snapshot.checkpoints, snapshot.boundary])
        return sorted(found)

    def base(self, place: int) -> int:
        """Where the pages begin that a snapshot has of its own."""
        if place == 0 or self.snapshots[place - 1].format != self.snapshots[place].format:
            return 0
        return self.snapshots[place - 1].boundary

    def rows(self, index: int, kind: Kind) -> int:
        return self.pages(index) if kind == "kv" else len(self.boundaries(index))

    def page_names(self, index: int, tokens: NDArray[np.uint32], salt: str) -> list[str]:
        """Names of a format's pages, 64 hex digits each."""
        fingerprint = self.formats[index].fingerprint
        pages = self.pages(index)
        needed = pages * fingerprint.page_size + fingerprint.bigram
        return page_hashes(
            tokens[:needed], fingerprint.page_size, salt=salt, bigram=fingerprint.bigram
        )

    def row_names(self, index: int, kind: Kind, page_names: Sequence[str]) -> list[str]:
        """Of each row: a state has the name of the page that ends where it is."""
        if kind == "kv":
            return list(page_names)
        size = self.formats[index].fingerprint.page_size
        return [page_names[boundary // size - 1] for boundary in self.boundaries(index)]

    def tensors(self, manifest_bytes: int) -> dict[str, Tensor]:
        """All that a file with this manifest has, in its order."""
        found = {MANIFEST: Tensor("U8", (manifest_bytes,))}
        found[TOKENS] = Tensor("U32", (self.total_tokens,))
        for index in range(len(self.formats)):
            found[names_of(index)] = Tensor("U8", (self.pages(index), SUM_BYTES))
        for group in self.groups():
            found[group.sums] = Tensor("U8", (group.rows, SUM_BYTES))
        for group in self.groups():
            found[group.payloads] = Tensor("U8", (group.rows, group.row_bytes))
        if self.version > 1:
            found[CONTENTS] = Tensor("U8", (sum(content.size for content in self.contents),))
        return found

    def groups(self) -> list[Group]:
        """In the order of the file."""
        return [
            Group(index, kind, rank, self.rows(index, kind), payload_bytes(f.fingerprint, kind))
            for index, f in enumerate(self.formats)
            for kind in KINDS
            for rank in range(f.fingerprint.tp_size)
        ]

    def _check(self) -> None:
        if self.economy not in ECONOMIES:
            raise ValueError(f"economy class {self.economy[:40]!r} is not known")
        for format in self.formats:
            _require_sound(format)
        if len({format.id for format in self.formats}) != len(self.formats):
            raise ValueError("a state format stands in it twice")
        if {s.format for s in self.snapshots} - set(range(len(self.formats))):
            raise ValueError("a snapshot is in a state format that is not there")
        if (self.version == 1) is bool(self.contents):
            raise ValueError("contents are in files of version 2, and in no others")
        places = [place for one in self.files for place in (one.body, *one.needs)]
        if max([*places, *self.effects], default=-1) >= len(self.contents):
            raise ValueError("a content that something needs is not there")
        if {s.files for s in self.snapshots if s.files is not None} != set(range(len(self.files))):
            raise ValueError("the files that go with a snapshot are not there, or with none")
        self._check_amounts()
        if self.total_tokens > _TOKENS:
            raise ValueError(f"it has {self.total_tokens} tokens, {_TOKENS} are allowed")
        total = 0
        for place, snapshot in enumerate(self.snapshots):
            total += snapshot.tokens
            fingerprint = self.formats[snapshot.format].fingerprint
            end = snapshot.boundary + (fingerprint.bigram and snapshot.boundary > 0)
            if (
                snapshot.boundary % fingerprint.page_size
                or end > total
                or snapshot.boundary < self.base(place)
            ):
                raise ValueError(f"boundary {snapshot.boundary} of snapshot {place} cannot be")
            inside = [self.base(place), *snapshot.checkpoints, snapshot.boundary]
            if snapshot.checkpoints and any(
                one >= other or one % fingerprint.page_size for one, other in pairwise(inside)
            ):
                raise ValueError(f"checkpoints of snapshot {place} cannot be")

    def _check_amounts(self) -> None:
        """What sets of files become in a store, a small manifest must not multiply."""
        if len({content.sha256 for content in self.contents}) != len(self.contents):
            raise ValueError("a content stands in it twice")
        if any(len(set(one.needs)) != len(one.needs) for one in self.files):
            raise ValueError("a set of files needs a content twice")
        if sum(len(one.needs) for one in self.files) > _ALL_NEEDS:
            raise ValueError(f"its sets of files need more than {_ALL_NEEDS} contents in all")
        needed = {place for one in self.files for place in one.needs}
        if any(self.contents[place].size > BLOB_BYTES for place in needed):
            raise ValueError(f"a set of files needs a content of more than {BLOB_BYTES} bytes")
        bodies = [one.body for one in self.files]
        once, each = (sum(self.contents[i].size for i in some) for some in (set(bodies), bodies))
        if each - once > _REPEATED:
            raise ValueError(f"it repeats bodies of sets of files, {each - once} bytes of them")


class Group(NamedTuple):
    """The rows of one kind on one rank, in one state format."""

    format: int
    kind: Kind
    rank: int
    rows: int
    row_bytes: int

    @property
    def payloads(self) -> str:
        return f"f{self.format}.{self.kind}.r{self.rank}"

    @property
    def sums(self) -> str:
        return f"{self.payloads}.sha256"


def names_of(index: int) -> str:
    """The tensor with the names of a format's pages, 32 bytes each."""
    return f"f{index}.names"


def payload_bytes(fingerprint: Fingerprint, kind: Kind) -> int:
    return fingerprint.kv_payload_bytes if kind == "kv" else fingerprint.state_payload_bytes


def digest(content: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(content).digest()


def _require_sound(format: Format) -> None:
    fingerprint = format.fingerprint
    if format.id != fingerprint.id:
        raise ValueError(f"state format {format.id[:40]!r} is not what it says: {fingerprint.id}")
    if not (0 < fingerprint.page_size <= _TOKENS and 0 < fingerprint.tp_size <= _RANKS):
        raise ValueError(
            f"{fingerprint.page_size} tokens a page on {fingerprint.tp_size} ranks cannot be"
        )
    for kind in KINDS:
        if not 0 < payload_bytes(fingerprint, kind) <= ROW_LIMIT:
            raise ValueError(f"a {kind} payload of {payload_bytes(fingerprint, kind)} bytes")
        if any(segment.bytes < 0 for segment in fingerprint.layout(kind).segments):
            raise ValueError(f"a {kind} segment has fewer than no bytes")


def _require_plain(value: Any) -> None:
    """Nothing but what JSON has, and bytes; not so deep that it could not be stored."""
    level = [value]
    for _ in range(_DEPTH):
        level = [inner for outer in level if not isinstance(outer, _PLAIN) for inner in _in(outer)]
        if not level:
            return
    raise ValueError(f"something in it is more than {_DEPTH} deep")


def _in(value: Any) -> Sequence[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key in it is not text")
        return list(value.values())
    raise ValueError(f"a {type(value).__name__} is in it")
