"""How the client sends requests, and reads answers."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from agent_runtime.errors import BadRequest, InvalidRequest
from agent_runtime.sdk.errors import ApiError, api_error, json_of, read, rows_of, unreachable
from agent_runtime.sdk.streams import events_of, pieces_of
from agent_runtime.wire.problems import Problem

_Event = TypeVar("_Event", bound=BaseModel)
_Body = TypeVar("_Body", bound=BaseModel)


class Told(NamedTuple):
    """id: of the event, "" if it has none"""

    id: str
    event: Any


def base_url(url: str) -> httpx.URL:
    """Of a service. Raises BadRequest for what cannot be one, such as a URL without its scheme."""
    with contextlib.suppress(httpx.InvalidURL):
        parsed = httpx.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host:
            return parsed
    raise BadRequest(
        f"{url!r} is no URL of a service: it begins with http:// or https://, as in "
        "http://127.0.0.1:8700. Nothing was sent."
    )


def path_of(kind: str, any_id: str, *more: str) -> str:
    """The path of what is named, as in /v1/sessions/ses-…/fork. Whatever the id is, the path leads
    nowhere else. Raises BadRequest for one that no path can name."""
    if any_id in ("", ".", ".."):
        raise BadRequest(f"{any_id!r} is no id of {kind}. Nothing was sent.")
    return "/".join(("/v1", kind, quote(any_id, safe=":@"), *more))


def body_of(kind: type[_Body], **fields: Any) -> _Body:
    """The body of a request. Raises InvalidRequest for fields that it cannot have."""
    try:
        return kind(**fields)
    except ValidationError as error:
        told = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors(include_url=False)]
        text = "; ".join(f"{place}: {flaw}" if place else flaw for place, flaw in told)
        raise InvalidRequest(f"{text}. Nothing was sent.", param=told[0][0] or None) from error


class Requests:
    """To one runtime. Every method raises ApiError and ApiUnreachable."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> Any:
        """The JSON that is answered, None for nothing."""
        response = await self._answered(method, path, body, key)
        return json_of(response) if response.content else None

    async def listed(self, path: str) -> AsyncGenerator[dict[str, Any]]:
        """Rows of all pages."""
        async with contextlib.aclosing(self.pages(path)) as pages:
            async for page in pages:
                for row in rows_of(page):
                    yield row

    async def pages(self, path: str) -> AsyncGenerator[Any]:
        """The JSON of each page, read when it is taken."""
        following: str | None = path
        while following is not None:
            response = await self._answered("GET", following, None, None)
            yield json_of(response)
            following = response.links.get("next", {}).get("url")

    async def streamed(
        self,
        path: str,
        request: BaseModel | None,
        kinds: Mapping[str, type[_Event]],
        key: str | None = None,
    ) -> AsyncGenerator[_Event]:
        """Events that a POST is answered with. kinds: by name; others are passed over"""
        body = None if request is None else request.model_dump(mode="json", exclude_unset=True)
        asked = self._http.stream("POST", path, json=body, headers={**_EVENTS, **_headers(key)})
        async with contextlib.aclosing(self._events(asked, kinds)) as events:
            async for told in events:
                yield told.event

    async def followed(
        self, path: str, kinds: Mapping[str, type[_Event]], *, after: str | None
    ) -> AsyncGenerator[Told]:
        """Events that a GET is answered with. after: the id of the last one that is known"""
        headers = _EVENTS if after is None else {**_EVENTS, "Last-Event-ID": after}
        asked = self._http.stream("GET", path, headers=headers)
        async with contextlib.aclosing(self._events(asked, kinds)) as events:
            async for told in events:
                yield told

    async def download(self, path: str, file: Path) -> None:
        """What is there once it is whole; until then, and if it never is, `file` is as it was."""
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            async with self._opened(self._http.stream("GET", path)) as response:
                with part.open("xb") as written:
                    async for piece in response.aiter_bytes():
                        written.write(piece)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    async def upload(self, path: str, file: Path) -> Any:
        """Send a file; the JSON that is answered."""
        try:
            response = await self._http.post(path, content=pieces_of(file))
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error
        if response.status_code >= 300:
            raise api_error(response)
        return json_of(response)

    async def _events(
        self,
        asked: AbstractAsyncContextManager[httpx.Response],
        kinds: Mapping[str, type[_Event]],
    ) -> AsyncGenerator[Told]:
        async with self._opened(asked) as response:
            async for event in events_of(response):
                if event.name == "error":
                    raise ApiError(read(Problem, event.data))
                if event.name in kinds:
                    yield Told(event.id, read(kinds[event.name], event.data))

    @contextlib.asynccontextmanager
    async def _opened(
        self, asked: AbstractAsyncContextManager[httpx.Response]
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with asked as response:
                if response.status_code != 200:
                    await response.aread()
                    raise api_error(response)
                yield response
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error

    async def _answered(self, method: str, path: str, body: Any, key: str | None) -> httpx.Response:
        try:
            response = await self._http.request(method, path, json=body, headers=_headers(key))
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error
        if response.status_code >= 300:
            raise api_error(response)
        return response


_EVENTS = {"Accept": "text/event-stream"}


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}
