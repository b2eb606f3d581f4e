"""The files that go with the sessions of a runtime, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from agent_runtime.sdk.errors import read
from agent_runtime.sdk.requests import path_of
from agent_runtime.wire.workspaces import Names, Pieces, Version, WorkspaceFiles, WorkspaceView

Call = Callable[[str, str, Any], Awaitable[Any]]

_AT_ONCE = 4  # pieces of up to 1 MiB in one request


class SessionFiles:
    """Pieces of contents have their SHA-256 as names. Every method raises ApiError or
    ApiUnreachable."""

    def __init__(self, call: Call) -> None:
        """call: sends a method, a path and a JSON body, and returns the JSON answer"""
        self._call = call

    async def get(
        self, session_id: str, *, snapshot: str | None = None, version: str | None = None
    ) -> WorkspaceView:
        """The files that go with a snapshot, the head's if none is given; or a version of them."""
        asked = {"snapshot": snapshot, "version": version}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        path = f"{path_of('sessions', session_id, 'workspace')}?{query}"
        return read(WorkspaceView, await self._call("GET", path, None))

    async def missing(self, session_id: str, names: Sequence[str]) -> list[str]:
        """Pieces that are to be sent before a version that needs them."""
        body = Names(names=list(names))
        return read(Names, await self._post(session_id, "missing", body)).names

    async def put(self, session_id: str, pieces: Iterable[bytes]) -> None:
        """Send pieces, a few at a time."""
        batch: list[bytes] = []
        for piece in pieces:
            batch.append(piece)
            if len(batch) == _AT_ONCE:
                await self._put(session_id, batch)
                batch = []
        if batch:
            await self._put(session_id, batch)

    async def read(self, session_id: str, names: Sequence[str]) -> AsyncIterator[bytes]:
        """The pieces with these names, in their order, read a few at a time."""
        for start in range(0, len(names), _AT_ONCE):
            body = Names(names=list(names[start : start + _AT_ONCE]))
            for piece in read(Pieces, await self._post(session_id, "read", body)).pieces:
                yield piece

    async def keep(self, session_id: str, files: WorkspaceFiles) -> str:
        """The version that the files are, to be given with a turn. All pieces must be there."""
        return read(Version, await self._post(session_id, "versions", files)).version

    async def _put(self, session_id: str, pieces: list[bytes]) -> None:
        await self._post(session_id, "pieces", Pieces.model_construct(pieces=pieces))

    async def _post(self, session_id: str, what: str, body: Names | Pieces | WorkspaceFiles) -> Any:
        path = path_of("sessions", session_id, "workspace", what)
        return await self._call("POST", path, body.model_dump(mode="json"))
