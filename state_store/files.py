"""Files that go with a session's history, such as the workspace of its tools.

    snapshot ──> set of files ──────────────────> blobs
                 a body, the caller's own bytes,  contents by their hash, each stored once
                 and what blobs it needs          in a lineage

Blobs come first, then the set, then a commit that names it. Until a commit holds them they expire,
and count for the tenant's quota.
Snapshots count how often a set is held, sets count their blobs, in the scripts that commit and
bury; so forks and rewinding need nothing more. What nothing holds any more lives on for a while; of
an encrypted tenant, only what a session of the lineage has lately been told is there. Contents of
such a tenant are sealed and names are keyed. A server keeps all files of a lineage in one slot.
Blobs of idle sessions are in the archive (`archive/files.py`): they can be named as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from state_store.archive.base import Archive
from state_store.archive.cold_files import ColdFile
from state_store.archive.files import look_files
from state_store.cipher import SEALED_BYTES
from state_store.connection import Control
from state_store.errors import (
    ArchiveUnavailable,
    CorruptObject,
    FilesMissing,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
)
from state_store.layout import LineageKeys, lineage_of
from state_store.lineages import Lineage, Lineages, Seals
from state_store.quotas import Quotas
from state_store.records import Session, SnapshotDraft

BLOB_BYTES = 4 << 20  # that a content may have: one value of the server, and whole in memory
TTL = 3600  # seconds that files live until a commit holds them
_FIELDS = ("body", "blobs", "named", "sizes")  # of a set
_BATCH = 256  # keys of one script


@dataclass(frozen=True)
class FileSet:
    """body: the caller's own bytes; blobs: SHA-256 of each content that it needs, in hex"""

    body: bytes
    blobs: tuple[str, ...]


class Files:
    """See `StateStore.files`. Every method raises VaultLocked, and NotFound if the session is gone.

    Names of blobs are the SHA-256 of their contents in hex, whatever they are called in the store.
    """

    def __init__(
        self,
        control: Control,
        prefix: str,
        lineages: Lineages,
        quotas: Quotas,
        archive: Callable[[], Archive | None],
    ) -> None:
        """archive: the one that is open"""
        self._archive = archive
        self._control = control
        self._prefix = prefix
        self._lineages = lineages
        self._quotas = quotas

    async def missing(self, session: Session, names: Sequence[str]) -> list[str]:
        """Those blobs that the session's lineage does not have; the others live for `TTL` more."""
        keys, seals = await self._place(session)
        found: list[str] = []
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            blobs = [keys.blob(_stored(one, seals)) for one in batch]
            places = await self._control.run(
                "keep_files",
                [*_beside(keys, session), keys.files(""), *blobs],
                *_times(session),
            )
            found += [batch[at - 1] for at in _require(places, session)]
        return found

    async def put(self, session: Session, contents: Sequence[bytes]) -> list[str]:
        """Keep contents of at most `BLOB_BYTES` each, to be sent in small numbers; their names.

        Raises InvalidArgument for a larger one, QuotaExceeded: then nothing was kept.
        """
        for content in contents:
            if len(content) > BLOB_BYTES:
                raise InvalidArgument(
                    f"a file content has {len(content)} bytes, {BLOB_BYTES} at most can be kept; "
                    "nothing was. Cut it into pieces."
                )
        keys, seals = await self._place(session)
        names = [hashlib.sha256(content).hexdigest() for content in contents]
        blobs = [keys.blob(_stored(name, seals)) for name in names]
        values = [
            content if seals is None else seals.seal(content, blob)
            for content, blob in zip(contents, blobs, strict=True)
        ]
        async with self._room(session, dict(zip(blobs, map(len, values), strict=True))):
            if not await self._control.run(
                "keep_blobs", [*_beside(keys, session), *blobs], *_times(session), *values
            ):
                raise NotFound(f"no session {session.id}.")
        return names

    async def get(self, session: Session, name: str) -> bytes:
        """A content, from wherever it is. Raises FilesMissing, CorruptObject; ArchiveUnavailable
        and ArchiveRefused if the archive has it and cannot be read here."""
        keys, seals = await self._place(session)
        stored = _stored(name, seals)
        blob = keys.blob(stored)
        value = await self._read(keys, stored)
        if value is None:
            raise FilesMissing(f"the store has no file content {name[:12]}…", [name])
        content = value if seals is None else seals.open(value, blob)
        if hashlib.sha256(content).hexdigest() != name:
            raise CorruptObject(f"file content {name[:12]}… is not what its name says.")
        return content

    async def measured(self, session: Session, names: Sequence[str]) -> dict[str, int]:
        """Bytes of each content; of one that is not there, 0 or less."""
        keys, seals = await self._place(session)
        added = 0 if seals is None else SEALED_BYTES
        sizes: list[int] = []
        for start in range(0, len(names), _BATCH):
            batch = [_stored(name, seals) for name in names[start : start + _BATCH]]
            for found in await look_files(self._control, keys, batch):
                sizes.append(ColdFile.parse(found.cold).size if found.cold else found.size)
        return {name: size - added for name, size in zip(names, sizes, strict=True)}

    async def put_set(self, session: Session, files: FileSet) -> str:
        """Keep a set whose blobs are there; its name, for a draft.

        Raises FilesMissing with the names of blobs that are not there, QuotaExceeded; then nothing
        was kept.
        """
        keys, seals = await self._place(session)
        name = set_name(files, seals)
        place = keys.files(name)
        stored = [_stored(one, seals) for one in files.blobs]
        body = files.body if seals is None else seals.seal(files.body, place)
        named = "\n".join(files.blobs).encode()
        fields: list[str | bytes] = ["body", body, "blobs", " ".join(stored)]
        fields += ["named", named if seals is None else seals.seal(named, f"{place}#named")]
        async with self._room(session, {place: sum(map(len, fields))}):
            places = await self._control.run(
                "keep_files",
                [*_beside(keys, session), place, *map(keys.blob, stored)],
                *_times(session),
                *fields,
            )
        missing = [files.blobs[at - 1] for at in _require(places, session)]
        if missing:
            raise FilesMissing(
                f"{len(missing)} of {len(stored)} file contents are not in the store; the files "
                f"of {session.id} were not kept. Send these, and keep them again.",
                missing,
            )
        return name

    async def get_set(self, session: Session, name: str) -> FileSet:
        """name: as a snapshot of its lineage has it. Raises FilesMissing, CorruptObject."""
        keys, seals = await self._place(session)
        place = keys.files(name)
        async with self._control.guard() as client:
            body, named = await client.hmget(place, "body", "named")
        if body is None or named is None:
            raise FilesMissing(f"the store has no set of files {name[:12]}…")
        if seals is not None:
            body, named = seals.open(body, place), seals.open(named, f"{place}#named")
        files = FileSet(body, tuple(named.decode(errors="replace").split()))
        if set_name(files, seals) != name:
            raise CorruptObject(f"the set of files {name[:12]}… is not what its name says.")
        return files

    async def sizes(self, session: Session, name: str) -> dict[str, int]:
        """Bytes of each blob of a set. Raises FilesMissing."""
        keys, seals = await self._place(session)
        found = await self._sizes(keys, name)
        blobs = (await self.get_set(session, name)).blobs
        added = 0 if seals is None else SEALED_BYTES
        return {one: found[_stored(one, seals)] - added for one in blobs}

    async def require(self, session: Session, name: str) -> None:
        """Have a set live for `TTL` more, whoever lets go of it. Raises FilesMissing."""
        keys, _ = await self._place(session)
        async with self._control.guard() as client:
            blobs = await client.hget(keys.files(name), "blobs")
        places = [0]
        if blobs is not None:
            stored = map(keys.blob, blobs.decode(errors="replace").split())
            places = await self._control.run(
                "keep_files",
                [*_beside(keys, session), keys.files(name), *stored],
                *_times(session),
            )
        if places:
            raise FilesMissing(
                f"the files {name[:12]}… of {session.id} are not all in the store, or have "
                "expired; nothing was done. Keep them again."
            )

    async def of_draft(
        self, draft: SnapshotDraft, before: str | None
    ) -> tuple[tuple[int, ...], SnapshotDraft]:
        """Of each draft of the chain the bytes that its files add to its parent's, those of the set
        itself included; and the draft, with its parent's files if it names none. before: files of
        the snapshot that the first of the chain goes on from. Raises FilesMissing."""
        keys = LineageKeys(self._prefix, lineage_of(draft.session_id))
        added = []
        onto: SnapshotDraft | None = None
        for one in draft.chain:
            named = one.files or before
            added.append(0)
            if named is not None and named != before:
                known = {} if before is None else await self._sizes(keys, before)
                new = await self._sizes(keys, named)
                added[-1] = sum(size for blob, size in new.items() if blob not in known)
                added[-1] += await self._own_size(keys, named)
            onto = replace(one, files=named, onto=onto)
            before = named
        assert onto is not None, "a chain has the draft itself"
        return tuple(added), onto

    async def loose(self, draft: SnapshotDraft) -> int:
        """Bytes of the files of a draft's chain that count for the quota before it is committed.
        draft: with its files named"""
        keys = LineageKeys(self._prefix, lineage_of(draft.session_id))
        names: list[str] = []
        for one in dict.fromkeys(draft.files for draft in draft.chain if draft.files is not None):
            async with self._control.guard() as client:
                blobs = await client.hget(keys.files(one), "blobs")
            held = (blobs or b"").decode(errors="replace").split()
            names += [f"files:{one}", *(f"blob:{name}" for name in held)]
        return int(await self._control.run("loose_files", keys.places_of_loose, *names))

    @contextlib.asynccontextmanager
    async def _room(self, session: Session, sizes: Mapping[str, int]) -> AsyncIterator[None]:
        """For what is about to be kept. sizes: bytes by key"""
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in sizes:
                pipeline.exists(key)
            known = await pipeline.execute() if sizes else []
        added = sum(size for size, there in zip(sizes.values(), known, strict=True) if not there)
        lineage = Lineage.of(session.body)
        room = await self._quotas.reserve(lineage.tenant, bytes=added) if added else None
        try:
            yield
            if room is not None:
                keys = LineageKeys(self._prefix, lineage.id)
                await self._control.run("loose_files", keys.places_of_loose)
                await self._quotas.mirror(lineage.tenant, [lineage.id], room=room)
        except StoreUnavailable:
            raise  # they may be kept: the room is held for a while
        except BaseException:
            await self._quotas.release(room)
            raise

    async def _read(self, keys: LineageKeys, stored: str) -> bytes | None:
        """A content as it is stored."""
        seen: set[bytes] = set()
        while True:  # it moves at any time, in one step
            async with self._control.guard() as client:
                value: bytes | None = await client.get(keys.blob(stored))
                cold: bytes | None = await client.hget(keys.cold_files, stored)
            if value is not None or (cold is None and b"" in seen):
                return value
            archive = self._archive()
            if cold is not None and archive is None:
                raise ArchiveUnavailable(
                    "this file is in the archive, and none is open here; nothing is lost. Start "
                    "the process with --archive URL, or resume the session where it is open."
                )
            try:
                if cold is not None and archive is not None:
                    return await ColdFile.parse(cold).read(archive, keys.lineage, stored)
            except CorruptObject:
                if cold in seen:
                    raise
            seen.add(cold or b"")

    async def _sizes(self, keys: LineageKeys, name: str) -> dict[str, int]:
        async with self._control.guard() as client:
            blobs, sizes = await client.hmget(keys.files(name), "blobs", "sizes")
        if blobs is None or sizes is None:
            raise FilesMissing(
                f"the store has no set of files {name[:12]}…, or it has expired; nothing was "
                "committed. Keep it again, and then repeat the turn."
            )
        try:
            return dict(zip(blobs.decode().split(), map(int, sizes.split()), strict=True))
        except ValueError as error:
            raise CorruptObject(f"the set of files {name[:12]}… cannot be read: {error}") from error

    async def _own_size(self, keys: LineageKeys, name: str) -> int:
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for field in _FIELDS:
                pipeline.hstrlen(keys.files(name), field)
            return sum(await pipeline.execute())

    async def _place(self, session: Session) -> tuple[LineageKeys, Seals | None]:
        keys = LineageKeys(self._prefix, lineage_of(session.id))
        return keys, await self._lineages.seals(Lineage.of(session.body))


def _beside(keys: LineageKeys, session: Session) -> list[str]:
    """The first keys of the scripts that keep."""
    there = [keys.session(session.id), keys.held_files, keys.wanted_files, keys.loose_files]
    return [*there, keys.cold_files, keys.condemned_files]


def _times(session: Session) -> list[int]:
    """And their first arguments."""
    return [TTL * 1000, int(session.body.encrypted)]


def set_name(files: FileSet, seals: Seals | None) -> str:
    """64 hex digits. seals: of the lineage"""
    whole = hashlib.sha256("\n".join(files.blobs).encode() + b"\n\n" + files.body)
    return _stored(whole.hexdigest(), seals)


def _stored(digest: str, seals: Seals | None) -> str:
    """What a hash is in the store: of an encrypted tenant, nobody can test a guess by it."""
    return digest if seals is None else seals.digest(b"file " + bytes.fromhex(digest)).hex()


def _require(places: Sequence[int], session: Session) -> Sequence[int]:
    if 0 in places:
        raise NotFound(f"no session {session.id}.")
    return places
