"""Workspaces that follow their sessions: the files of tools go with the snapshots of model state.

    open ──> tools work on the files ──> keep ──> turn(..., workspace=version) commits both
      │                                    │
      │ the files of a version, from here  │ only contents that the store does not have are sent
      └ or from the store                  └ a turn that is not committed changes no version

A fork, a rewind and a resume elsewhere need nothing more: whoever opens the workspace of a session
gets the files of its head. What was done after the last version is put aside, and is told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent_runtime.errors import FilesUncommitted
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.workspaces import CHUNK, WorkspaceFiles, sha256
from tools.code import code_tools
from tools.errors import ToolFailed, WorkspacesUnusable
from tools.files import file_tools
from tools.tool import Tool, ToolSpec
from tools.workspaces import File, Manifest, Workspaces, merged

logger = logging.getLogger(__name__)

_MOST_NAMED = 10

Make = Callable[[Path], Iterable[Tool]]


@dataclass(frozen=True)
class Opened:
    """path:    where the files are
    version:  that they are of, None for a session that has none yet
    note:     what became of files that were there and belong to no version: what was done after the
              last one; None if there were none
    aside:    id of the snapshot in `Workspaces` that has them, if they could be kept
    """

    path: Path
    version: str | None
    note: str | None = None
    aside: str | None = None


def usual_tools(path: Path) -> list[Tool]:
    """Those for files, Python and the shell."""
    return [*file_tools(path), *code_tools(path)]


class SessionWorkspaces:
    """The workspaces that sessions have on this machine, each under its session's id. One process
    works in a session's workspace at a time.

    Each tenant's are in a folder of their own below the root of `workspaces`, since nobody can tell
    another tenant's sessions from those that are no more. A root belongs to one service.
    """

    def __init__(
        self, torpor: Torpor, workspaces: Workspaces, make_tools: Make = usual_tools
    ) -> None:
        """make_tools: that work in a folder; of scope branch, if they change nothing else"""
        self._torpor = torpor
        self._workspaces = replace(workspaces, root=workspaces.root / f"of-{torpor.owner}")
        self._make_tools = make_tools
        self._left_at: dict[str, tuple[str | None, str]] = {}
        """By session: version and snapshot that its files were left at."""

    def tools(self, path: Path) -> list[Tool]:
        """For an opened workspace."""
        return list(self._make_tools(path))

    def specs(self) -> list[ToolSpec]:
        """Of these tools, to declare to the model."""
        with tempfile.TemporaryDirectory() as folder:
            return [tool.spec for tool in self._make_tools(Path(folder))]

    async def open(
        self, session_id: str, version: str | None = None, *, snapshot: str | None = None
    ) -> Opened:
        """Have the session's workspace hold the files of a version, or of a snapshot of its
        lineage; its head's if neither is given.

        What it held before that no version has is kept in a snapshot here. Raises ApiError, such as
        `files_missing` for files that the store has lost; WorkspacesUnusable.
        """
        with _on_disk():
            return await self._open(session_id, version, snapshot)

    async def _open(self, session_id: str, version: str | None, snapshot: str | None) -> Opened:
        left = self._left_at.pop(session_id, None)
        if left is not None and version is not None and left[0] == version:
            return Opened(self._workspaces.path(session_id), version)
        view = await self._torpor.files.get(session_id, snapshot=snapshot, version=version)
        if left is not None and snapshot is not None and left[0] == view.version:
            return Opened(self._workspaces.path(session_id), view.version)
        manifest = view.files.manifest
        await self._fetch(session_id, view.files)
        if session_id not in self._workspaces.names():
            path = await asyncio.to_thread(self._workspaces.fork, manifest.id, session_id)
            return Opened(path, view.version)
        try:
            now = await asyncio.to_thread(self._workspaces.snapshot, session_id)
        except ToolFailed as error:
            note, aside = f"files that no version has were dropped: {error}", None
        else:
            if now.id == manifest.id:
                return Opened(self._workspaces.path(session_id), view.version)
            paths = ", ".join(changed_between(manifest, now)[:_MOST_NAMED])
            note, aside = f"files that no version has were put aside as {now.id}: {paths}", now.id
        path = await asyncio.to_thread(self._workspaces.put_back, manifest.id, session_id)
        if left is not None and left[1] == aside:  # they are of another version
            return Opened(path, view.version)
        logger.warning("workspace of %s: %s", session_id, note)
        return Opened(path, view.version, note, aside)

    async def keep(self, session_id: str) -> str:
        """The version that the session's files are now, to be given with its next turn.

        Raises WorkspaceFull, ToolFailed for what cannot be kept; WorkspacesUnusable; ApiError.
        """
        with _on_disk():
            return await self._keep(session_id)

    async def _keep(self, session_id: str) -> str:
        manifest = await asyncio.to_thread(self._workspaces.snapshot, session_id)
        files = await asyncio.to_thread(self._files, manifest)
        waiting = set(await self._torpor.files.missing(session_id, files.blobs()))
        await self._torpor.files.put(session_id, self._pieces(files, waiting))
        version = await self._torpor.files.keep(session_id, files)
        self._left_at[session_id] = (version, manifest.id)
        return version

    async def merge(self, session_id: str, other_id: str, version: str | None = None) -> Opened:
        """Add to the session's files what another branch, as its head has it, changed since the two
        parted; what they are then, whose version is to be given with the next turn.

        version: that was kept of the session's files, and that no turn has committed; its head's if
                 none is given. What belongs to neither is put aside, see `open`.

        Raises WorkspacesDiffer where both changed the same files in different ways, and
        FilesUncommitted if none is given and there is one; then nothing is changed.
        WorkspacesUnusable, ApiError.
        """
        parted = (await self._torpor.diff(session_id, other_id)).ancestor
        ours = await self._torpor.files.get(session_id, version=version)
        theirs = await self._torpor.files.get(other_id)
        left = self._left_at.get(session_id)
        if version is None and left is not None and left[0] != ours.version:
            raise FilesUncommitted(
                f"the files of {session_id} were kept as {left[0]}, which its head does not have; "
                "nothing was merged. Give that version to merge into it, or have a turn commit it; "
                "or open the workspace, which has the head's files then."
            )
        base = Manifest(entries=())
        if parted is not None:
            base = (await self._torpor.files.get(session_id, snapshot=parted.id)).files.manifest
        manifest = merged(base, ours.files.manifest, theirs.files.manifest)
        self._left_at.pop(session_id, None)  # whatever was done since is looked for
        opened = await self.open(session_id, version)
        with _on_disk():
            await self._fetch(other_id, theirs.files)
            self._workspaces.admit(manifest)
            await asyncio.to_thread(self._workspaces.put_back, manifest.id, session_id)
        return replace(opened, version=await self.keep(session_id))

    async def tidy(self) -> int:
        """Delete the workspaces of the tenant's sessions that are no more, and all that can be had
        from the store again or was put aside; bytes freed. Nothing may run in a workspace of the
        tenant meanwhile, in whichever process."""
        needed = set()
        for name in self._workspaces.names():
            try:
                await self._torpor.get(name)
            except ApiError as error:
                if error.code != "not_found":
                    raise
                self._left_at.pop(name, None)
                await asyncio.to_thread(self._workspaces.delete, name)
            else:
                needed.add(self._left_at.get(name, (None, ""))[1])
        return await asyncio.to_thread(self._workspaces.keep_only, needed)

    def _files(self, manifest: Manifest) -> WorkspaceFiles:
        large = {
            one.sha256: one
            for one in manifest.entries
            if isinstance(one, File) and one.size > CHUNK
        }
        chunks = {
            digest: [sha256(piece) for piece in self._chunks(file)]
            for digest, file in large.items()
        }
        return WorkspaceFiles(manifest=manifest, chunks=chunks)

    def _chunks(self, file: File) -> Iterator[bytes]:
        for start in range(0, max(1, file.size), CHUNK):
            yield self._workspaces.read(file.sha256, start, CHUNK)

    def _pieces(self, files: WorkspaceFiles, waiting: set[str]) -> Iterator[bytes]:
        """Those that are waited for, each once."""
        for file in files.contents():
            for number, name in enumerate(files.pieces(file)):
                if name in waiting:
                    waiting.remove(name)
                    yield self._workspaces.read(file.sha256, number * CHUNK, CHUNK)

    async def _fetch(self, session_id: str, files: WorkspaceFiles) -> None:
        """Have the files as a snapshot here."""
        for file in self._workspaces.lacking(files.manifest):
            pieces = [
                piece async for piece in self._torpor.files.read(session_id, files.pieces(file))
            ]
            await asyncio.to_thread(self._workspaces.take, file.sha256, pieces)
        await asyncio.to_thread(self._workspaces.admit, files.manifest)


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspacesUnusable(
            f"the folder of workspaces cannot be used: {error}. The session's files are as its "
            "head has them; make room, or see who may write there, and try again."
        ) from error


def changed_between(one: Manifest, other: Manifest) -> list[str]:
    """Paths that are not the same in both, sorted."""
    left, right = ({entry.path: entry for entry in each.entries} for each in (one, other))
    return sorted(path for path in {*left, *right} if left.get(path) != right.get(path))
