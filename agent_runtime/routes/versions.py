"""Routes of versions: many forks, rewinding, comparing, the tree, export and import."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from agent_runtime.errors import BodyTooLarge, TorporError
from agent_runtime.http.document import content, problems
from agent_runtime.http.etags import MOVED, Match, held_to, name_head
from agent_runtime.http.headers import Key, name_next
from agent_runtime.sessions.versions import Versions
from agent_runtime.wire.sessions import SessionView
from agent_runtime.wire.versions import DiffView, Forks, ForksRequest, RewindRequest, TreeView
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(prefix="/v1", responses=problems(TorporError, StoreError, EngineError))

_FILE = "application/octet-stream"


def _versions(request: Request) -> Versions:
    versions: Versions = request.app.state.versions
    return versions


Asked = Annotated[Versions, Depends(_versions)]


@router.post("/sessions/{session_id}/forks", status_code=201, responses=MOVED)
async def forks(
    versions: Asked, session_id: str, request: ForksRequest, match: Match, key: Key = None
) -> Forks:
    return await versions.forks(session_id, held_to(request, match), key=key)


@router.post("/sessions/{session_id}/rewind", responses=MOVED)
async def rewind(
    versions: Asked, response: Response, session_id: str, request: RewindRequest, match: Match
) -> SessionView:
    view = await versions.rewind(session_id, held_to(request, match))
    name_head(response, view.head)
    return view


@router.get("/sessions/{session_id}/diff")
async def diff(
    versions: Asked, session_id: str, other: Annotated[str, Query(max_length=120)]
) -> DiffView:
    return await versions.diff(session_id, other)


@router.get("/sessions/{session_id}/tree")
async def tree(
    versions: Asked,
    response: Response,
    session_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> TreeView:
    """Snapshots and sessions, `limit` of both together, the newest first; the `Link` header leads
    to the next ones, if there are any."""
    found = await versions.tree(session_id, limit=limit, after=after)
    path = f"{router.prefix}/sessions/{session_id}/tree"
    name_next(response, path, limit=limit, after=found.next)
    return found


@router.get(
    "/sessions/{session_id}/export",
    response_class=FileResponse,
    responses={200: content(_FILE, "one session as one file")},
)
async def export(versions: Asked, session_id: str) -> FileResponse:
    folder = tempfile.TemporaryDirectory(prefix="torpor-export-")
    path = Path(folder.name) / f"{session_id}.torpor"
    try:
        await versions.export(session_id, path)
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path,
        media_type=_FILE,
        filename=path.name,
        background=BackgroundTask(folder.cleanup),
    )


@router.post(
    "/import",
    status_code=201,
    openapi_extra={"requestBody": content(_FILE, "an exported session") | {"required": True}},
)
async def take_in(versions: Asked, http: Request) -> SessionView:
    """The body is the file."""
    limit: int = http.app.state.settings.import_bytes
    with tempfile.TemporaryDirectory(prefix="torpor-import-") as folder:
        path = Path(folder) / "session.torpor"
        with path.open("wb") as file:
            async for piece in http.stream():
                file.write(piece)
                if file.tell() > limit:
                    raise BodyTooLarge(
                        f"the file is larger than {limit} bytes (`import_bytes`); nothing was kept."
                    )
        return await versions.take_in(path)
