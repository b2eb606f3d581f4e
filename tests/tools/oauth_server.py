"""An MCP server behind the SDK's own OAuth authorization server, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.fastmcp import FastMCP
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

SCOPE = "tools"


class Authority:
    """Grants what it is asked for, unless `refuses`. Tokens and clients are counted by being kept.

    lives: seconds of an access token
    """

    def __init__(self) -> None:
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.access: dict[str, AccessToken] = {}
        self.refreshed = 0
        self.refuses = False
        self.lives = 3600
        self._codes: dict[str, AuthorizationCode] = {}
        self._refresh: dict[str, RefreshToken] = {}

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client: OAuthClientInformationFull) -> None:
        assert client.client_id is not None
        self.clients[client.client_id] = client

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        back = str(params.redirect_uri)
        if self.refuses:
            return construct_redirect_uri(back, error="access_denied", state=params.state)
        code = AuthorizationCode(
            code=secrets.token_hex(20),
            client_id=client.client_id or "",
            scopes=params.scopes or [SCOPE],
            expires_at=time.time() + 60,
            **params.model_dump(exclude={"state", "scopes"}),
        )
        self._codes[code.code] = code
        return construct_redirect_uri(back, code=code.code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, code: str
    ) -> AuthorizationCode | None:
        return self._codes.get(code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, code: AuthorizationCode
    ) -> OAuthToken:
        del self._codes[code.code]
        return self._granted(code.client_id, code.scopes, code.resource)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, token: str
    ) -> RefreshToken | None:
        return self._refresh.get(token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self._refresh[token.token]
        self.refreshed += 1
        return self._granted(token.client_id, scopes, token.resource)

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self.access.get(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.access.pop(token.token, None)

    def forget(self) -> None:
        """Take no token any more that was granted."""
        self.access.clear()
        self._refresh.clear()

    def _granted(self, client_id: str, scopes: list[str], resource: str | None) -> OAuthToken:
        access, refresh = secrets.token_hex(20), secrets.token_hex(20)
        of = {"client_id": client_id, "scopes": scopes, "resource": resource}
        expires_at = int(time.time()) + self.lives
        self.access[access] = AccessToken(token=access, expires_at=expires_at, **of)
        self._refresh[refresh] = RefreshToken(token=refresh, **of)
        return OAuthToken(
            access_token=access,
            refresh_token=refresh,
            expires_in=self.lives,
            scope=" ".join(scopes),
        )


@contextlib.asynccontextmanager
async def guarded(authority: Authority) -> AsyncIterator[str]:
    """Its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root = f"http://127.0.0.1:{port}"
    server = FastMCP(
        "guarded",
        log_level="ERROR",
        port=port,
        auth_server_provider=authority,
        auth=AuthSettings(
            issuer_url=root,
            resource_server_url=f"{root}/mcp",
            client_registration_options=ClientRegistrationOptions(
                enabled=True, valid_scopes=[SCOPE], default_scopes=[SCOPE]
            ),
            required_scopes=[SCOPE],
            validate_token_resource=True,
        ),
    )

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    http = uvicorn.Server(
        uvicorn.Config(server.streamable_http_app(), port=port, log_level="error")
    )
    serving = asyncio.create_task(http.serve())
    while not http.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        yield f"{root}/mcp"
    finally:
        http.should_exit = True
        await serving
