"""What a tool of the MCP server is given reaches the session as it was given."""

from importlib.metadata import version

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from agent_runtime.mcp_server.server import make_server
from tests.backends.scripted import says, sent

TEXTS = ['{"order": 17}', "[1, 2]", "null", "true", "17", '"quoted"', "plain"]


@pytest.fixture
async def called(chat_service):
    async def call(tool, **arguments):
        async with (
            streamable_http_client(f"{chat_service.url}/mcp") as (read, write, _),
            ClientSession(read, write) as client,
        ):
            await client.initialize()
            result = await client.call_tool(tool, arguments)
        assert not result.isError, result.content
        return result.structuredContent

    return call


@pytest.mark.parametrize("text", TEXTS)
async def test_text_that_is_json_is_text(called, said, text):
    session = await called("create_session", system=text)
    said.scripted.append(says({"content": "ok"}))
    await called("turn", session_id=session["id"], message=text)
    assert sent(said) == [("system", text), ("user", text)]


async def test_a_key_that_is_json_is_a_key(called):
    for key in ("null", "[]", "abc"):
        made = {(await called("create_session", idempotency_key=key))["id"] for _ in range(2)}
        assert len(made) == 1, key


def test_a_server_tells_its_own_version():
    told = make_server(lambda: None).create_initialization_options()
    assert (told.server_name, told.server_version) == ("torpor", version("torpor"))
