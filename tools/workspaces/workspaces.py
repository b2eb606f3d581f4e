"""The workspaces of one runtime: made, committed, forked and deleted with their sessions."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tools.errors import FolderMissing, SnapshotMissing, ToolFailed, WorkspaceExists, WorkspaceFull
from tools.workspaces.contents import Contents
from tools.workspaces.manifest import File, Folder, Link, Manifest
from tools.workspaces.owner import give
from tools.workspaces.tree import Entry, Tree, Usage

__all__ = ["Usage", "Workspaces"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Workspaces:
    """All below `root`: files in `live/NAME/`, `snapshots/ID.json` naming what is in `contents/`.

    most_bytes, most_files: what a workspace may hold to be kept in a snapshot
    Snapshots share the contents they have in common. Where the file system can, files are shared
    with workspaces too until one changes; elsewhere they are copied, never hard-linked. Any number
    of processes may use the same `root`.
    """

    root: Path
    most_bytes: int = 256 * 2**20
    most_files: int = 20_000

    def create(self, name: str) -> Path:
        """An empty workspace. Raises WorkspaceExists, ValueError for a name that is no file name.

        name: letters, digits, `.`, `_` and `-`, such as a session's id
        """
        with self._making() as fresh:
            return self._finish(fresh, name)

    def path(self, name: str) -> Path:
        """Where a workspace is. Raises FolderMissing if there is none."""
        path = self._live(name)
        if not path.is_dir():
            raise FolderMissing(f"there is no workspace named {name}; make one with create().")
        return path

    def snapshot(self, name: str) -> Manifest:
        """Keep all files as they are now. The same files make the same manifest and id.

        Devices, pipes and sockets are left out: they hold nothing. Files that a running command
        changes meanwhile are kept as they were at some moment each; end it first.
        Raises WorkspaceFull, ToolFailed for what cannot be read; then nothing new is named.
        """
        tree = Tree(self.path(name))
        usage = tree.usage(most_files=self.most_files)
        if usage.bytes > self.most_bytes or usage.files > self.most_files:
            raise WorkspaceFull(
                f"workspace {name} holds {usage.bytes} bytes in {usage.files} files or more, the "
                f"limits are {self.most_bytes} and {self.most_files}; it was not kept. Delete files"
            )
        with self._locked(shared=True):
            kept = [self._keep(entry) for entry in tree.walk()]
            entries = sorted((one for one in kept if one), key=lambda entry: entry.path)
            manifest = Manifest(entries=tuple(entries))
            self._write(manifest)
        return manifest

    def manifest(self, snapshot: str) -> Manifest:
        """What a snapshot names. Raises SnapshotMissing if it is unknown or was changed."""
        if not _ID.fullmatch(snapshot):
            raise SnapshotMissing(f"{snapshot!r} is not the id of a workspace snapshot.")
        try:
            text = self._manifest(snapshot).read_text()
        except FileNotFoundError as error:
            raise SnapshotMissing(
                f"there is no workspace snapshot {snapshot[:12]}… in {self.root}."
            ) from error
        return _read(text, snapshot)

    def lacking(self, manifest: Manifest) -> list[File]:
        """The files of a snapshot from elsewhere whose contents are not here, each content once."""
        contents = self._contents()
        files = [one for one in manifest.entries if isinstance(one, File)]
        found = {one.sha256: one for one in files if not contents.has(one.sha256, one.size)}
        return list(found.values())

    def read(self, digest: str, start: int, count: int) -> bytes:
        """`count` bytes from `start` of a content that a snapshot names, fewer at its end.

        digest: SHA-256, hexadecimal. Raises SnapshotMissing.
        """
        return self._contents().read(digest, start, count)

    def take(self, digest: str, pieces: Iterable[bytes]) -> None:
        """Take in a content from elsewhere, for a snapshot that is admitted next.

        digest: SHA-256, hexadecimal. Raises SnapshotMissing if it is another one.
        """
        with self._locked(shared=True):
            if self._contents().add(pieces) != digest:
                raise SnapshotMissing(f"a content came that is not {digest[:12]}….")

    def admit(self, manifest: Manifest) -> None:
        """Take in a snapshot from elsewhere. Raises SnapshotMissing for contents that are not here,
        and it is not taken in."""
        with self._locked(shared=True):
            if missing := self.lacking(manifest):
                raise SnapshotMissing(
                    f"{len(missing)} contents of the snapshot {manifest.id[:12]}… are not here, "
                    f"such as that of {missing[0].path}; it was not taken in."
                )
            self._write(manifest)

    def put_back(self, snapshot: str, name: str) -> Path:
        """Have a workspace hold the files of a snapshot, and nothing else; no command may run in
        it. What it held is gone unless it was kept. Raises as fork() does; then it is unchanged.

        If the process ends meanwhile, it holds the old files or the new, or there is none.
        """
        manifest = self.manifest(snapshot)
        path = self._live(name)
        with self._making() as fresh:
            for entry in manifest.entries:
                self._put(fresh, entry)
            _give_path(fresh)
            if not path.exists():
                return self._finish(fresh, name)
            aside = fresh.with_name(f"{fresh.name}.old")
            with self._flocked("names", fcntl.LOCK_EX):
                try:
                    path.rename(aside)
                    fresh.rename(path)
                except BaseException:
                    if aside.exists():
                        aside.rename(path)
                    raise
            _remove_or_leave(aside)
        return path

    def fork(self, snapshot: str, name: str) -> Path:
        """A new workspace with the files of a snapshot. Raises as create() and manifest() do.

        If it fails half-way, or the process ends, there is no workspace of that name.
        """
        manifest = self.manifest(snapshot)
        with self._making() as fresh:
            for entry in manifest.entries:  # by path, so folders come before what is in them
                self._put(fresh, entry)
            return self._finish(fresh, name)

    def delete(self, name: str) -> None:
        """Delete a workspace; its snapshots stay. Nothing happens if there is none.

        Raises ToolFailed for what cannot be deleted.
        """
        _remove(self._live(name))

    def names(self) -> list[str]:
        """Of all workspaces, sorted."""
        live = self.root / "live"
        return sorted(path.name for path in live.iterdir()) if live.is_dir() else []

    def forget(self, snapshot: str) -> None:
        """Drop a snapshot; collect() frees what it alone had. Nothing happens if it is unknown."""
        if _ID.fullmatch(snapshot):
            self._manifest(snapshot).unlink(missing_ok=True)

    def keep_only(self, snapshots: Collection[str]) -> int:
        """Forget all others, and collect; the bytes freed."""
        for place in (self.root / "snapshots").glob("*.json"):
            if place.stem not in snapshots:
                self.forget(place.stem)
        return self.collect()

    def collect(self) -> int:
        """Delete contents that no snapshot names, and what was left half-made; the bytes freed.

        Raises SnapshotMissing for a manifest that was changed: forget() it, then nothing needs it.
        """
        with self._locked(shared=False):
            for leftover in (self.root / "making").iterdir():
                _remove_or_leave(leftover)
            named = {
                entry.sha256
                for place in (self.root / "snapshots").glob("*.json")
                for entry in _read(place.read_text(), place.stem).entries
                if isinstance(entry, File)
            }
            contents = self._contents()
            return sum(contents.drop(one) for one in list(contents.all()) if one not in named)

    def _live(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} can't name a workspace: use letters, digits, . _ and -")
        return self.root / "live" / name

    def _write(self, manifest: Manifest) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.root / "making", delete=False) as file:
            file.write(manifest.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(self._manifest(manifest.id))

    def _manifest(self, snapshot: str) -> Path:
        return self.root / "snapshots" / f"{snapshot}.json"

    def _contents(self) -> Contents:
        return Contents(self.root / "contents", self.root / "making")

    @contextmanager
    def _locked(self, *, shared: bool) -> Iterator[None]:
        """Nothing is collected while something is kept or put back, whichever process does it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("live", "making", "snapshots", "contents"):
            (self.root / folder).mkdir(exist_ok=True)
        with self._flocked("lock", fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            yield

    @contextmanager
    def _flocked(self, name: str, how: int) -> Iterator[None]:
        with (self.root / name).open("w") as file:
            fcntl.flock(file, how)
            yield

    @contextmanager
    def _making(self) -> Iterator[Path]:
        """A folder for a new workspace, removed unless it was finished."""
        with self._locked(shared=True):
            fresh = Path(tempfile.mkdtemp(dir=self.root / "making"))
            try:
                yield fresh
            finally:
                _remove_or_leave(fresh)

    def _finish(self, fresh: Path, name: str) -> Path:
        path = self._live(name)
        _give_path(fresh)
        with self._flocked("names", fcntl.LOCK_EX):  # a rename takes the place of an empty folder
            if os.path.lexists(path):
                raise WorkspaceExists(f"a workspace is named {name} already; nothing was changed.")
            return fresh.rename(path)

    def _keep(self, entry: Entry) -> File | Folder | Link | None:
        if entry.is_folder():
            return Folder(path=_named(entry.path))
        if entry.is_link():
            target = os.readlink(entry.name, dir_fd=entry.folder)
            return Link(path=_named(entry.path), target=_named(target))
        if not entry.is_file():
            return None
        try:
            source = entry.open()
        except OSError as error:
            raise ToolFailed(f"{entry.path} can't be read: {error.strerror}") from error
        try:
            now = os.fstat(source)
            if not stat.S_ISREG(now.st_mode):
                raise ToolFailed(f"{entry.path} became something else while it was kept")
            digest = self._contents().keep(source)
        finally:
            os.close(source)
        return File(
            path=_named(entry.path),
            size=self._contents().size(digest),
            sha256=digest,
            executable=bool(now.st_mode & 0o100),
        )

    def _put(self, root: Path, entry: File | Folder | Link) -> None:
        with Tree(root).parent(entry.path) as (folder, name):
            match entry:
                case Folder():
                    os.mkdir(name, 0o755, dir_fd=folder)
                    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
                    give(made)
                    os.close(made)
                case Link():
                    os.symlink(entry.target, name, dir_fd=folder)
                case File():
                    mode = 0o755 if entry.executable else 0o644
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    made = os.open(name, flags, mode, dir_fd=folder)
                    try:
                        self._contents().put(entry.sha256, made)
                        give(made)
                    finally:
                        os.close(made)


def _read(text: str, snapshot: str) -> Manifest:
    """A manifest that is kept. Raises SnapshotMissing."""
    if hashlib.sha256(text.encode()).hexdigest() != snapshot:
        raise SnapshotMissing(f"the manifest of {snapshot[:12]}… was changed; it isn't used.")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise SnapshotMissing(f"the manifest of {snapshot[:12]}… isn't used: {error}") from error


def _named(path: str) -> str:
    """A path as text. Raises ToolFailed for names that are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ToolFailed(f"the name {path!r} is not UTF-8; rename the file") from error
    return path


def _remove(path: Path) -> None:
    """Folders may be nested deeper than shutil.rmtree can go, and closed by who ran in them.

    Raises ToolFailed for what cannot be deleted."""
    if not os.path.lexists(path):
        return  # without a process for it, which may fail
    removing = ["rm", "-rf", "--one-file-system", "--", str(path)]
    try:
        if subprocess.run(removing, stderr=subprocess.DEVNULL).returncode != 0:
            opening = ["find", str(path), "-xdev", "-type", "d", "!", "-perm", "-700"]
            opening += ["-execdir", "chmod", "u+rwx", "{}", ";"]
            # It refuses to run what a search path with relative folders would find.
            subprocess.run(opening, stderr=subprocess.DEVNULL, env={"PATH": os.defpath})
            subprocess.run(removing, stderr=subprocess.PIPE, check=True)
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip()[-300:]
        raise ToolFailed(f"{path} can't be deleted: {why}") from error
    except OSError as error:
        raise ToolFailed(f"{path} can't be deleted: {error.strerror}") from error


def _remove_or_leave(path: Path) -> None:
    """For what is half-made: collect() tries again."""
    try:
        _remove(path)
    except ToolFailed as error:
        logger.warning("%s is left, and collect() tries again: %s", path, error)


def _give_path(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        give(number)
    finally:
        os.close(number)
