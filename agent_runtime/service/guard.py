"""Looks at every request before a route does: who sends it, and may they?

A tenant's sessions are not there for another: a foreign session's id is answered as one that never
was, by the same look-up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_runtime.access.known_keys import KNOWN_FOR, KnownKeys, rate_limited
from agent_runtime.caller.identity import serve_as
from agent_runtime.caller.standing import Standings
from agent_runtime.console.routes import PATHS as CONSOLE
from agent_runtime.errors import Forbidden, NotFound, TorporError, Unauthorized
from agent_runtime.http.request_ids import current_request_id
from agent_runtime.http.status import problem_of
from agent_runtime.service.answers import problem_response
from agent_runtime.service.docs_page import PATH as DOCS
from state_store.api_keys import ApiKey
from state_store.errors import StoreError, StoreUnavailable
from state_store.store import StateStore

audit = logging.getLogger("torpor.audit")
"""One line of JSON per request that changes something or is refused."""

OPEN = {"/health", "/ready", DOCS} | CONSOLE
_ADMINS = re.compile(r"/v1/keys(/.*)?|/v1/scheduling")
_OPERATORS = re.compile(r"/metrics|/v1/scheduling|/v1/tenants(/.*)?")
_OPERATORS_ONLY = re.compile(r"/metrics|/v1/tenants(/.*)?")
_OF_SESSION = re.compile(r"/v1/sessions/([^/]+)(/.*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_READING = {"GET", "HEAD", "OPTIONS"}
_ASKED_BY_POST = re.compile(r"/v1/sessions/[^/]+/workspace/read")  # names are many, for a query
_DOORS = {"/mcp"}  # what comes through makes requests of its own, which are looked at
_TURNS = re.compile(r"/v1/sessions/([^/]+)/turns")


class Guard:
    """ASGI middleware. Needs a key for all paths but those in `OPEN`."""

    def __init__(
        self,
        app: ASGIApp,
        store: Callable[[], StateStore],
        *,
        standing_tenant: Callable[[str], str | None],
        outage_seconds: float,
    ) -> None:
        """store: asked for at each request, since it is connected when the service starts
        standing_tenant: whose a session is that can go on without the store, None for others
        outage_seconds: see `RuntimeSettings.outage_key_seconds`
        """
        self._app = app
        self._store = store
        self._standing_tenant = standing_tenant
        self._keys = KnownKeys(outage_seconds=outage_seconds)
        self._standings = Standings(self._stands, every=KNOWN_FOR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        key: ApiKey | None = None
        text = ""
        try:
            text = _sent_key(scope)
            try:
                key = await self._who(text)
                await self._admit(key, scope["method"], scope["path"])
            except StoreUnavailable:
                key = self._without_store(text, scope["method"], scope["path"])
                if key is None:
                    raise
        except (TorporError, StoreError) as error:
            problem = problem_of(error)
            _write(scope, key, problem.status, refused=problem.code)
            headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
            wait = getattr(error, "retry_after", None)
            if wait is not None:
                headers["Retry-After"] = f"{wait:.0f}"
            refusal = problem_response(problem, headers, scope=scope)
            await refusal(scope, receive, send)
            return
        serve_as(key)
        self._standings.serve_with(text)
        if _reads(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with contextlib.ExitStack() as at_end:
            at_end.callback(lambda: _write(scope, key, status))
            await self._app(scope, receive, noting)

    async def _who(self, text: str) -> ApiKey:
        """Raises Unauthorized."""
        if not text:
            raise Unauthorized("send an API key: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`.")
        if (known := self._keys.believed(text)) is not None:
            return known
        key = await self._looked_up(text)
        if key is None:
            raise Unauthorized("the API key is not valid: it is mistyped, revoked or expired.")
        return key

    async def _stands(self, text: str) -> bool:
        return await self._looked_up(text) is not None

    async def _looked_up(self, text: str) -> ApiKey | None:
        key = await self._store().keys.verified(text)
        self._keys.confirmed(text, key)
        return key

    async def _admit(self, key: ApiKey, method: str, path: str) -> None:
        """Raises RateLimited, Forbidden, NotFound."""
        if _CONTROL.search(
            path
        ):  # routes match before a final line break; the patterns here do not
            raise NotFound("there is no such path.")
        wait = await self._store().keys.spend(key)
        if wait is not None:
            raise rate_limited(key, wait)
        if key.role == "operator":
            if _OPERATORS.fullmatch(path) is None:
                raise Forbidden(
                    f"{path} is a tenant's, and key {key.id} of role operator is of none; nothing "
                    "was done. Use a key of the tenant."
                )
            return
        if _OPERATORS_ONLY.fullmatch(path):
            raise Forbidden(f"{path} is for keys of role operator; key {key.id} is of {key.role}.")
        if _ADMINS.fullmatch(path) and key.role != "admin":
            raise Forbidden(f"{path} is for keys of role admin; key {key.id} is of {key.role}.")
        if key.role == "read" and not _reads(method, path) and path not in _DOORS:
            raise Forbidden(f"key {key.id} may only read; nothing was done.")
        session = _OF_SESSION.fullmatch(path)
        if session is not None:
            await self._store().session(session[1], tenant=key.tenant)

    def _without_store(self, text: str, method: str, path: str) -> ApiKey | None:
        """The key, for a turn of a session that goes on while the store is gone: see
        `turns/outage.py`. Raises RateLimited."""
        turns = _TURNS.fullmatch(path)
        tenant = None if turns is None else self._standing_tenant(turns[1])
        if tenant is None or method != "POST":
            return None
        key = self._keys.without_store(text)
        may = key is not None and key.tenant == tenant and key.role != "read"
        return key if may else None


def _reads(method: str, path: str) -> bool:
    return method in _READING or _ASKED_BY_POST.fullmatch(path) is not None


def _sent_key(scope: Scope) -> str:
    """Raises Unauthorized for two that differ: they may be of two tenants."""
    headers = dict(scope["headers"])
    scheme, _, sent = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    text = sent.strip() if scheme.lower() == "bearer" else ""
    other = headers.get(b"x-api-key", b"").decode("latin-1")
    if text and other and text != other:
        raise Unauthorized(
            "`Authorization` and `X-Api-Key` have two different keys; nothing was done. Send one."
        )
    return text or other


def _write(scope: Scope, key: ApiKey | None, status: int, *, refused: str | None = None) -> None:
    line = {
        "request_id": current_request_id(),
        "tenant": None if key is None else key.tenant,
        "key": None if key is None else key.id,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "refused": refused,
    }
    audit.info("%s", json.dumps(line))
