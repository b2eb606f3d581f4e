"""Routes of workspaces: keep the files of a session's tools, and read those of its snapshots."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import BadRequest, TorporError
from agent_runtime.http.document import problems
from agent_runtime.wire.workspaces import (
    MOST_CHUNKS,
    Names,
    Pieces,
    Sha256,
    Version,
    WorkspaceFiles,
    WorkspaceView,
)
from state_store.errors import CorruptObject, FilesMissing, StoreError
from state_store.files import FileSet
from state_store.layout import lineage_of
from state_store.records import Session
from state_store.store import StateStore
from tools.workspaces import Manifest

router = APIRouter(
    prefix="/v1/sessions/{session_id}/workspace", responses=problems(TorporError, StoreError)
)

_NOTHING = WorkspaceFiles(manifest=Manifest(entries=()))


@router.post("/missing")
async def missing(http: Request, session_id: str, request: Names) -> Names:
    """Those that are to be sent; the others live for an hour more."""
    store, session = await _session(http, session_id)
    return Names(names=await store.files.missing(session, request.names))


@router.post("/pieces")
async def put(http: Request, session_id: str, request: Pieces) -> Names:
    """Kept for an hour, or for as long as a snapshot needs them."""
    store, session = await _session(http, session_id)
    return Names(names=await store.files.put(session, request.pieces))


@router.post("/read")
async def read(http: Request, session_id: str, request: Names) -> Pieces:
    if len(request.names) > MOST_CHUNKS:
        raise BadRequest(f"{len(request.names)} pieces; ask for at most {MOST_CHUNKS} at once.")
    store, session = await _session(http, session_id)
    found = [await store.files.get(session, name) for name in request.names]
    return Pieces.model_construct(pieces=found)


@router.post("/versions")
async def keep(http: Request, session_id: str, request: WorkspaceFiles) -> Version:
    """Kept for an hour, and by turns that are given the version. All pieces must be there, and be
    what the files are said to be."""
    store, session = await _session(http, session_id)
    await _require_agreement(store, session, request)
    files = FileSet(request.model_dump_json().encode(), request.blobs())
    return Version(version=await store.files.put_set(session, files))


@router.get("")
async def get(
    http: Request,
    session_id: str,
    snapshot: Annotated[str | None, Query(description="The head if none is given.")] = None,
    version: Annotated[Sha256 | None, Query(description="Instead of a snapshot.")] = None,
) -> WorkspaceView:
    """The files that go with a snapshot of the session's lineage, or a version of them."""
    store, session = await _session(http, session_id)
    if version is None:
        version = await _version(store, session, snapshot)
    if version is None:
        return WorkspaceView(version=None, files=_NOTHING)
    found = await store.files.get_set(session, version)
    try:
        return WorkspaceView(version=version, files=WorkspaceFiles.model_validate_json(found.body))
    except ValidationError as error:
        raise CorruptObject(f"the files {version[:12]}… cannot be read: {error}") from error


async def _require_agreement(store: StateStore, session: Session, files: WorkspaceFiles) -> None:
    """Whether pieces are there is not looked at. Raises BadRequest."""
    stored = await store.files.measured(session, files.blobs())
    for file in files.contents():
        for piece, size in zip(files.pieces(file), files.sizes(file), strict=True):
            if stored[piece] > 0 and stored[piece] != size:
                raise BadRequest(
                    f"a piece of {file.path} has {stored[piece]} bytes, not {size}; these files "
                    "were not kept."
                )
    large = [file for file in files.contents() if len(files.pieces(file)) > 1]
    if not large:
        return
    known = await _pieces_of_head(store, session)
    for file in large:
        pieces = files.pieces(file)
        if known.get(file.sha256) == pieces or any(stored[piece] <= 0 for piece in pieces):
            continue
        content = hashlib.sha256()
        for piece in pieces:
            content.update(await store.files.get(session, piece))
        if content.hexdigest() != file.sha256:
            raise BadRequest(
                f"the pieces of {file.path} are another content; these files were not kept."
            )


async def _pieces_of_head(store: StateStore, session: Session) -> dict[str, list[str]]:
    """Of contents that were looked at when they were kept."""
    version = await _version(store, session, None)
    if version is None:
        return {}
    try:
        found = await store.files.get_set(session, version)
        files = WorkspaceFiles.model_validate_json(found.body)
        return {file.sha256: files.pieces(file) for file in files.contents()}
    except (FilesMissing, CorruptObject, ValidationError):
        return {}  # all are read


async def _version(store: StateStore, session: Session, snapshot_id: str | None) -> str | None:
    place = snapshot_id or session.head
    if place is None:
        return None
    if lineage_of(place) != lineage_of(session.id):
        raise BadRequest(f"{place} is no snapshot of {session.id}'s lineage.")
    return (await store.snapshot(place, tenant=session.body.tenant)).files


async def _session(http: Request, session_id: str) -> tuple[StateStore, Session]:
    store: StateStore = http.app.state.store
    tenant = current_tenant(http.app.state.settings.tenant)
    return store, await store.session(session_id, tenant=tenant)
