"""Reading a session from a file that anybody may have made.

    open ──> sizes, sums, page names agree ──> objects, each row if its sum is right ──> commits

Until the commits there are only objects that expire. Sums and names show that a file is as its
maker wrote it, not that its maker computed the states: whoever imports a file trusts that.
"""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from state_store.errors import InvalidExport
from state_store.forms import StoredForm
from state_store.layout import ObjectRef
from state_store.portable.container import Reader
from state_store.portable.export import FORMAT
from state_store.portable.manifest import (
    CONTENTS,
    MANIFEST,
    MANIFEST_LIMIT,
    SUM_BYTES,
    TOKENS,
    VERSIONS,
    Group,
    Manifest,
    digest,
    names_of,
)
from state_store.portable.rows import Place, batches
from state_store.records import SnapshotDraft

TTL = 3600  # seconds that objects live until a commit pins them
_REFRESH = TTL / 4  # seconds after which those that were stored first are to live longer


class Export:
    """An export that is open, and agrees with itself but for the payloads, which `store` reads.

    Every method raises InvalidExport.
    """

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        try:
            self.manifest = self._manifest()
            self._small = self._checked()
            self.tokens: NDArray[np.uint32] = np.frombuffer(self._small[TOKENS], dtype="<u4")
            self._check_names()
            sizes = (content.size for content in self.manifest.contents)
            begin = self._reader.layout.starts.get(CONTENTS, 0)
            self._content_starts = list(itertools.accumulate(sizes, initial=begin))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Export:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store(
        self, place: Place, *, salt: str, forms: dict[str, StoredForm], stop: threading.Event
    ) -> None:
        """Store all objects under the names that they have with another salt. Blocking.

        salt:  of the tenant's pages of the file's economy class
        forms: by fingerprint id
        """
        kept = _Kept(place, forms)
        names = self._names_under(salt)
        for group in self.manifest.groups():
            format_id = self.manifest.formats[group.format].id
            rows = self.manifest.row_names(group.format, group.kind, names[group.format])
            with place.payloads(format_id, group.rank, forms[format_id]) as payloads:
                for batch in batches(group, rows, stop):
                    for row in batch:
                        self._reader.read_into(
                            row.payload, self._reader.layout.row(group.payloads, row.number)
                        )
                        if row.sum() != self._sum(group, row.number):
                            raise self.invalid(
                                f"{group.kind} {row.number} of rank {group.rank} is damaged"
                            )
                    items = [item for row in batch for item in row.items]
                    refs = [ref for ref, _ in items]
                    there = payloads.touch(refs, ttl=TTL)
                    new = [item for item, found in zip(items, there, strict=True) if not found]
                    payloads.write(new, ttl=TTL)
                    kept.add(format_id, group.rank, refs)

    def content(self, number: int) -> bytes:
        """One of files and effects. Blocking."""
        wanted = self.manifest.contents[number]
        found = bytearray(wanted.size)
        self._reader.read_into([memoryview(found)], self._content_starts[number])
        if digest(found) != wanted.sha256:
            raise self.invalid(f"content {number} of its files and effects is damaged")
        return bytes(found)

    def drafts(self, session_id: str, salt: str) -> Iterator[SnapshotDraft]:
        """What to commit, root first; each draft's parent is left to be set."""
        names = self._names_under(salt)
        start = 0
        for place, snapshot in enumerate(self.manifest.snapshots):
            format = self.manifest.formats[snapshot.format]
            size = format.fingerprint.page_size
            end = snapshot.boundary // size
            chain = names[snapshot.format][:end]
            first = self.manifest.base(place) // size
            yield SnapshotDraft(
                session_id=session_id,
                parent=None,
                new_tokens=array("I", self.tokens[start : start + snapshot.tokens].tolist()),
                total_tokens=start + snapshot.tokens,
                boundary=snapshot.boundary,
                boundary_hash=chain[-1] if chain else None,
                page_hashes=tuple(chain[first:]),
                checkpoints=tuple(tokens // size - first for tokens in snapshot.checkpoints),
                fingerprint_id=format.id,
                ranks=format.fingerprint.tp_size,
                meta=snapshot.meta,
            )
            start += snapshot.tokens

    def invalid(self, reason: str) -> InvalidExport:
        return self._reader.invalid(reason)

    def _manifest(self) -> Manifest:
        metadata, found = self._reader.metadata, self._reader.layout.tensors.get(MANIFEST)
        if metadata.get("format") != FORMAT or found is None or found.dtype != "U8":
            raise self.invalid("it is not a session's export")
        if metadata.get("version", "") not in list(map(str, VERSIONS)):
            raise self.invalid(
                f"it has version {metadata.get('version', '')[:20]!r} and "
                f"{' and '.join(map(str, VERSIONS))} can be read"
            )
        if found.nbytes > MANIFEST_LIMIT:
            raise self.invalid(f"its manifest has {found.nbytes} bytes")
        packed = self._reader.read(MANIFEST)
        if digest(packed).hex() != metadata.get("manifest_sha256"):
            raise self.invalid("its manifest is damaged")
        try:
            manifest = Manifest.unpack(packed)
        except (ValueError, RecursionError, OverflowError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise self.invalid(f"its manifest cannot be: {reason}") from error
        if metadata["version"] != str(manifest.version):
            raise self.invalid("its header and its manifest have two versions")
        return manifest

    def _checked(self) -> dict[str, bytearray]:
        """All tensors but manifest and payloads."""
        there = self._reader.layout.tensors
        if there != self.manifest.tensors(there[MANIFEST].nbytes):
            raise self.invalid("what is in it is not what its manifest says")
        payloads = {group.payloads for group in self.manifest.groups()}
        besides = {MANIFEST, CONTENTS} | payloads  # they are not read as a whole
        names = [name for name in there if name not in besides]
        if set(names) != set(self.manifest.digests):
            raise self.invalid("its manifest has not the sums of what is in it")
        found = {}
        for name in names:
            found[name] = self._reader.read(name)
            if digest(found[name]) != self.manifest.digests[name]:
                raise self.invalid(f"{name} in it is damaged")
        return found

    def _check_names(self) -> None:
        for index, names in enumerate(self._names_under(self.manifest.salt)):
            if b"".join(map(bytes.fromhex, names)) != self._small[names_of(index)]:
                raise self.invalid("its pages are not named after its tokens")

    def _names_under(self, salt: str) -> list[list[str]]:
        """Names of all pages, by format."""
        return [
            self.manifest.page_names(index, self.tokens, salt)
            for index in range(len(self.manifest.formats))
        ]

    def _sum(self, group: Group, number: int) -> bytearray:
        return self._small[group.sums][number * SUM_BYTES : (number + 1) * SUM_BYTES]


class _Kept:
    """What was stored so far, which must not expire before the rest is stored."""

    def __init__(self, place: Place, forms: dict[str, StoredForm]) -> None:
        self._place = place
        self._forms = forms
        self._refs: dict[tuple[str, int], list[ObjectRef]] = {}
        self._refreshed = time.monotonic()

    def add(self, format_id: str, rank: int, refs: list[ObjectRef]) -> None:
        self._refs.setdefault((format_id, rank), []).extend(refs)
        if time.monotonic() < self._refreshed + _REFRESH:
            return
        for (known_id, known_rank), known in self._refs.items():
            form = self._forms[known_id]
            with self._place.payloads(known_id, known_rank, form) as payloads:
                payloads.touch(known, ttl=TTL)
        self._refreshed = time.monotonic()
