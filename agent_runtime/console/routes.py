"""Serves the console's files. They are the same for everybody and hold nothing of any session, so
they need no key: what they show, they ask the API for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from agent_runtime.errors import NotFound
from agent_runtime.http.pages import page_headers

router = APIRouter(prefix="/console", include_in_schema=False)

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE = "index.html"
# Whatever a session says, it can neither run here nor be sent anywhere else.
_HEADERS = page_headers(
    "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'"
)


@dataclass(frozen=True)
class _File:
    body: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> _File:
        body = path.read_bytes()
        return cls(
            body,
            {
                **_HEADERS,
                "Content-Type": _KINDS[path.suffix],
                # Asked for each time, and sent only if it is another: modules of two versions
                # do not fit each other.
                "Cache-Control": "no-cache",
                "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            },
        )


_FILES = {
    path.name: _File.read(path)
    for path in sorted((Path(__file__).parent / "static").iterdir())
    if path.suffix in _KINDS
}
PATHS = frozenset({router.prefix, f"{router.prefix}/", *(f"{router.prefix}/{n}" for n in _FILES)})
"""All that the console is served at."""


@router.get("")
async def page(request: Request) -> Response:
    return _answer(request, _FILES[_PAGE])


@router.get("/{name}")
async def file(request: Request, name: str) -> Response:
    found = _FILES.get(name)
    if found is None:
        raise NotFound(f"the console has no file {name[:80]!r}.")
    return _answer(request, found)


def _answer(request: Request, file: _File) -> Response:
    known = {
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    }
    if file.headers["ETag"] in known:
        return Response(status_code=304, headers=file.headers)
    return Response(file.body, headers=file.headers)
