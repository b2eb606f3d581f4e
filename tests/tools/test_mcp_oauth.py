"""An MCP server that asks for OAuth, with the SDK's own authorization server behind it."""

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientMetadata
from oauth_server import SCOPE, Authority, guarded

from tools.errors import McpUnauthorized
from tools.mcp import HttpServer, McpClient, Patience
from tools.registry import Registry

PATIENT = Patience(connect=30.0, call=30.0, answer=30.0)
BACK = "http://127.0.0.1:1/callback"  # where nobody listens: the test reads the redirection


class Keeping:
    """What a program keeps of it between its starts."""

    def __init__(self):
        self.tokens = self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Person:
    """Opens what they are shown in a browser, and comes back from there."""

    def __init__(self):
        self.asked = 0
        self._back = {}

    async def opens(self, url):
        self.asked += 1
        async with httpx.AsyncClient(trust_env=False) as browser:
            answer = await browser.get(url)
        assert answer.is_redirect, answer.text
        self._back = parse_qs(urlsplit(answer.headers["location"]).query)

    async def comes_back(self):
        return self._back.get("code", [""])[0], self._back["state"][0]


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
async def url(authority):
    async with guarded(authority) as url:
        yield url


@pytest.fixture
def person():
    return Person()


@pytest.fixture
def client(url, person):
    """Makes clients of the server, as of programs that keep `keeping`."""

    def made(keeping):
        auth = OAuthClientProvider(
            url,
            OAuthClientMetadata(client_name="Torpor", redirect_uris=[BACK], scope=SCOPE),
            keeping,
            redirect_handler=person.opens,
            callback_handler=person.comes_back,
        )
        return McpClient("ours", HttpServer(url=url, auth=auth), patience=PATIENT), auth

    return made


async def sum_by(client):
    result = await Registry(await client.tools()).call("ours_add", {"a": 2, "b": 40})
    assert not result.error, result.text
    return result.text


async def test_a_person_gives_leave_once_and_the_tokens_are_kept(authority, client, person):
    keeping = Keeping()
    for _ in range(2):  # a program that is started again asks nobody
        ours, _ = client(keeping)
        async with ours:
            assert await sum_by(ours) == "42"
    assert person.asked == 1
    assert len(authority.clients) == 1
    assert keeping.tokens.access_token in authority.access


async def test_a_token_that_has_expired_is_made_anew_without_the_person(authority, client, person):
    keeping = Keeping()
    ours, auth = client(keeping)
    async with ours:
        assert await sum_by(ours) == "42"
        first = keeping.tokens.access_token
        auth.context.token_expiry_time = 1.0  # as if its time had passed
        assert await sum_by(ours) == "42"
    assert (person.asked, authority.refreshed) == (1, 1)
    assert keeping.tokens.access_token != first


async def test_a_token_that_was_revoked_while_connected_has_the_person_asked_again(
    authority, client, person
):
    ours, _ = client(Keeping())
    async with ours:
        assert await sum_by(ours) == "42"
        authority.forget()
        assert await sum_by(ours) == "42"
        assert (await ours.health()).connections == 1
    assert person.asked == 2


async def test_a_person_who_refuses_is_not_asked_again_and_again(authority, client, person):
    authority.refuses = True
    ours, _ = client(Keeping())
    with pytest.raises(McpUnauthorized, match="refuses us: No authorization code"):
        await ours.__aenter__()
    assert person.asked == 1
    assert authority.access == {}
