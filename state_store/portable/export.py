"""Writing a session to a file.

The file has names of its own for pages, under a salt of its own: it says nothing about how the
store names them, and lets a reader compare every name with the tokens all the same. What is
exported is compared in the same way first.
"""

from __future__ import annotations

import os
import secrets
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from state_store.errors import CorruptObject, ExportFailed, NotFound, ObjectsMissing
from state_store.fingerprint import Fingerprint
from state_store.forms import StoredForm
from state_store.payloads import Outcome
from state_store.portable.besides import Besides
from state_store.portable.container import HEADER_LIMIT, Layout
from state_store.portable.manifest import (
    CONTENTS,
    MANIFEST,
    SUM_BYTES,
    TOKENS,
    Committed,
    Format,
    Group,
    Manifest,
    digest,
    names_of,
)
from state_store.portable.rows import Place, Row, batches
from state_store.records import Session, Snapshot

FORMAT = "torpor session"


@dataclass(frozen=True)
class Exported:
    """digest: SHA-256 of the manifest, which names the SHA-256 of all else; 64 hex digits
    decrypted: whether the tenant's objects are encrypted in the store: they are not in the file
    """

    path: Path
    digest: str
    snapshots: int
    tokens: int
    file_bytes: int
    decrypted: bool


@dataclass(frozen=True)
class Source:
    """A session as it is in the store: its history, root first, and all its tokens.

    fingerprints: of the session itself, and of its snapshots, by id
    names_salt:   of its pages in the store
    """

    session: Session
    history: Sequence[Snapshot]
    tokens: array[int]
    fingerprints: dict[str, Fingerprint]
    names_salt: str
    form_of: dict[str, StoredForm]
    besides: Besides

    @property
    def encrypted(self) -> bool:
        return any(form.tenant_key is not None for form in self.form_of.values())


def export(
    source: Source, place: Place, path: Path, *, since: str | None, stop: threading.Event
) -> Exported:
    """Blocking. See `StateStore.export_session`."""
    tokens = np.frombuffer(source.tokens, dtype=np.uint32)
    manifest = _manifest(source, _kept(source, since), salt=secrets.token_hex(32))
    stored = _stored_names(source, manifest, tokens)
    packed = _packed(manifest)
    metadata = {
        "format": FORMAT,
        "version": str(manifest.version),
        "manifest_sha256": digest(packed).hex(),
    }
    layout = Layout.planned(manifest.tensors(len(packed)), metadata)
    if len(layout.header(metadata)) > HEADER_LIMIT:
        raise ExportFailed(
            f"{source.session.id} is in too many state formats, on too many ranks, for one file."
        )
    with _File(path, source.session.id) as file:
        small = {TOKENS: tokens.astype("<u4").tobytes()}
        for index in range(len(manifest.formats)):
            names = manifest.page_names(index, tokens, manifest.salt)
            small[names_of(index)] = b"".join(map(bytes.fromhex, names))
        for group in manifest.groups():
            form = source.form_of[manifest.formats[group.format].id]
            rows = manifest.row_names(group.format, group.kind, stored[group.format])
            small[group.sums] = _payloads(file, layout, group, rows, manifest, place, form, stop)
        at = layout.starts.get(CONTENTS, 0)
        for one, size in source.besides.sizes.items():
            if stop.is_set():
                raise InterruptedError("nobody waits for this any more")
            file.write([memoryview(source.besides.read(one, stop))], at)
            at += size
        manifest = manifest.model_copy(
            update={"digests": {name: digest(content) for name, content in small.items()}}
        )
        small[MANIFEST] = manifest.pack()
        for name, content in small.items():
            file.write([memoryview(content)], layout.starts[name])
        metadata["manifest_sha256"] = digest(small[MANIFEST]).hex()
        file.finish(layout.header(metadata), layout.size)
    return Exported(
        path=path,
        digest=metadata["manifest_sha256"],
        snapshots=len(manifest.snapshots),
        tokens=len(tokens),
        file_bytes=layout.size,
        decrypted=source.encrypted,
    )


def _kept(source: Source, since: str | None) -> list[list[Snapshot]]:
    """Runs of snapshots that become one each: all up to `since`, then every one by itself."""
    history = list(source.history)
    if since is None:
        return [[snapshot] for snapshot in history]
    ids = [snapshot.id for snapshot in history]
    if since not in ids:
        raise NotFound(f"no snapshot {since} is in the history of {source.session.id}.")
    first = ids.index(since) + 1
    return [history[:first], *([snapshot] for snapshot in history[first:])]


def _manifest(source: Source, kept: Sequence[Sequence[Snapshot]], *, salt: str) -> Manifest:
    """With digests of nothing."""
    body = source.session.body
    ids = list(dict.fromkeys([body.fingerprint_id, *(run[-1].fingerprint_id for run in kept)]))
    snapshots, before = [], 0
    besides = source.besides
    sets = {name: place for place, name in enumerate(besides.sets)}
    for run in kept:
        last = run[-1]
        snapshots.append(
            Committed(
                id=last.id,
                tokens=last.total_tokens - before,
                boundary=last.boundary,
                checkpoints=_checkpoints(last, source.fingerprints[last.fingerprint_id]),
                format=ids.index(last.fingerprint_id),
                meta=last.meta,
                created_at=last.created_at,
                files=None if last.files is None else sets[last.files],
            )
        )
        before = last.total_tokens
    made = Manifest(
        version=2 if besides.sizes else 1,
        session_id=body.id,
        tenant_encrypts=source.encrypted,
        economy=source.session.body.economy,
        salt=salt,
        labels=source.session.labels,
        meta=body.meta,
        created_at=body.created_at,
        formats=[Format.of(source.fingerprints[fingerprint_id]) for fingerprint_id in ids],
        snapshots=snapshots,
        digests={},
        contents=besides.contents,
        files=besides.set_rows,
        effects=besides.effect_rows,
    )
    small = [TOKENS, *map(names_of, range(len(ids))), *(group.sums for group in made.groups())]
    return made.model_copy(update={"digests": dict.fromkeys(small, bytes(SUM_BYTES))})


def _checkpoints(snapshot: Snapshot, fingerprint: Fingerprint) -> list[int]:
    return snapshot.boundaries(fingerprint.page_size)[:-1]


def _packed(manifest: Manifest) -> bytes:
    try:
        return manifest.pack()
    except ValueError as error:
        raise ExportFailed(f"{manifest.session_id} cannot be exported: {error}.") from error


def _stored_names(
    source: Source, manifest: Manifest, tokens: NDArray[np.uint32]
) -> list[list[str]]:
    """Names of all pages in the store, by format, compared with what the snapshots say."""
    by_format = [
        manifest.page_names(index, tokens, source.names_salt)
        for index in range(len(manifest.formats))
    ]
    places = {format.id: index for index, format in enumerate(manifest.formats)}
    for snapshot in source.history:
        index = places.get(snapshot.fingerprint_id)
        if index is None:  # merged into a later snapshot of another format
            continue
        size = manifest.formats[index].fingerprint.page_size
        chain = snapshot.page_chain
        names = by_format[index][: snapshot.boundary // size]
        if names[len(names) - len(chain) :] != chain or names[-1:] != _ends(snapshot):
            raise CorruptObject(
                f"the pages of snapshot {snapshot.id} are not named after its tokens; "
                f"{source.session.id} was not exported."
            )
    return by_format


def _ends(snapshot: Snapshot) -> list[str]:
    return [] if snapshot.boundary_hash is None else [snapshot.boundary_hash]


def _payloads(
    file: _File,
    layout: Layout,
    group: Group,
    names: Sequence[str],
    manifest: Manifest,
    place: Place,
    form: StoredForm,
    stop: threading.Event,
) -> bytes:
    """Copy a group's rows to the file; their sums."""
    sums = bytearray()
    with place.payloads(manifest.formats[group.format].id, group.rank, form) as payloads:
        for rows in batches(group, names, stop):
            outcomes = iter(payloads.read([item for row in rows for item in row.items]))
            for row in rows:
                _require_whole(row, {next(outcomes) for _ in row.items}, group)
                sums += row.sum()
                file.write(row.payload, layout.row(group.payloads, row.number))
    return bytes(sums)


def _require_whole(row: Row, found: set[Outcome], group: Group) -> None:
    if found == {Outcome.OK}:
        return
    what = f"{group.kind} {row.name} of rank {group.rank}"
    if Outcome.CORRUPT in found:
        raise CorruptObject(f"{what} is damaged in the store; the session was not exported.")
    raise ObjectsMissing(
        f"{what} is not in the store; the session was not exported. If it is archived, open the "
        "store with its archive.",
        [(ref.kind, ref.page_hash, ref.part) for ref, _ in row.items],
    )


class _File:
    """A new file, which has its header, and so can be read, only when all else is on disk.

    It is removed if that does not come about. Raises ExportFailed.
    """

    def __init__(self, path: Path, session_id: str) -> None:
        self._path = path
        self._session_id = session_id
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise ExportFailed(f"{path} exists already; choose another name.") from error
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        self._finished = False

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if not self._finished:
            self._path.unlink(missing_ok=True)

    def write(self, views: Sequence[memoryview], at: int) -> None:
        try:
            for view in views:
                done = 0
                while done < len(view):
                    done += os.pwrite(self._file, view[done:], at + done)
                at += len(view)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, header: bytes, size: int) -> None:
        try:
            os.ftruncate(self._file, size)
            os.fsync(self._file)
            self.write([memoryview(header)], 0)
            os.fsync(self._file)
            _sync_names(self._path.parent)
        except OSError as error:
            raise self._failed(error) from error
        self._finished = True

    def _failed(self, error: Exception) -> ExportFailed:
        return ExportFailed(f"{self._session_id} cannot be written to {self._path}: {error}")


def _sync_names(folder: Path) -> None:
    """Until a folder is on the disk as well, a crash may leave its new file without a name."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
