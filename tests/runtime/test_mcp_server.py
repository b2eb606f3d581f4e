"""Other agents use sessions as tools, over stdio and over HTTP, by the official client and ours."""

import asyncio
import json
import sys

import httpx
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from agent_runtime.demo.script import SYSTEM
from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from tests.runtime.talk import PAGE
from tools.mcp import HttpServer, McpClient, StdioServer
from tools.registry import Registry

LOOKS = {"list_sessions", "show_session", "tree", "diff"}
DESTROYS = {"rewind", "delete_session"}
NEVER = "ses-0123456789abcdef-0123456789abcdef"
pytestmark = pytest.mark.usefixtures("nothing_left")


def program(stage):
    return [sys.executable, "-m", "agent_runtime.cli", "mcp", "--url", stage.runtime.url]


@pytest.fixture(params=["stdio", "http"])
def door(request, stage):
    """A way in, for the official client."""
    if request.param == "http":
        return streamable_http_client(f"{stage.runtime.url}/mcp")
    command, *arguments = program(stage)
    return stdio_client(StdioServerParameters(command=command, args=arguments))


async def done(client, tool, **arguments):
    """What a tool gave; it must have gone well."""
    result = await client.call_tool(tool, arguments)
    assert not result.isError, result.content
    assert json.loads(result.content[0].text) == result.structuredContent
    return result.structuredContent


async def test_an_agent_elsewhere_talks_forks_and_goes_back(door):
    async with door as (read, write, *_), ClientSession(read, write) as client:
        greeting = await client.initialize()
        assert "fork" in greeting.instructions
        made = await done(client, "create_session", system=SYSTEM, labels={"by": "mcp"})
        session = made["id"]
        told = []

        async def on_progress(done, total, message):
            told.append((done, total, message))

        asked = {"session_id": session, "message": "Remember: the code of harbour is 4712."}
        result = await client.call_tool("turn", asked, progress_callback=on_progress)
        first = result.structuredContent
        assert first["snapshot"]
        assert first["finish_reason"] == "stop"
        assert (2.0, 4.0, "answering") in told

        fork = await done(client, "fork", session_id=session, labels={"by": "mcp"})
        question = "What is the code of harbour?"
        answer = await done(client, "turn", session_id=fork["id"], message=question)
        assert answer["text"] == "The code of harbour is 4712."
        assert answer["parent"] == first["snapshot"]
        assert answer["usage"]["recomputed_tokens"] <= PAGE

        tree = await done(client, "tree", session_id=session)
        assert {one["id"] for one in tree["sessions"]} == {session, fork["id"]}
        diff = await done(client, "diff", session_id=session, other=fork["id"])
        assert diff["ancestor"]["id"] == first["snapshot"]
        shown = await done(client, "show_session", session_id=fork["id"])
        assert [one["id"] for one in shown["snapshots"]] == [first["snapshot"], answer["snapshot"]]
        assert not shown["more"]
        shown = await done(client, "show_session", session_id=fork["id"], limit=1)
        assert [one["id"] for one in shown["snapshots"]] == [answer["snapshot"]]
        assert shown["more"]

        suspended = await done(client, "suspend", session_id=fork["id"])
        assert suspended["durable"] == "fsync"
        resumed = await done(client, "resume", session_id=fork["id"], strict=True)
        assert resumed["restorable_tokens"] > 0
        back = await done(client, "rewind", session_id=fork["id"], turns=1)
        assert back["head"] == first["snapshot"]
        assert (await done(client, "cancel", session_id=session))["turn"] is None

        listed = await done(client, "list_sessions", limit=1)
        assert listed["more"]
        assert len(listed["sessions"]) == 1
        for one in (session, fork["id"]):
            await done(client, "delete_session", session_id=one)
        gone = await client.call_tool("show_session", {"session_id": session})
        assert gone.isError
        assert gone.content[0].text.startswith("not_found: ")
        assert gone.structuredContent["code"] == "not_found"


async def test_every_tool_says_what_it_does_to_sessions(door):
    async with door as (read, write, *_), ClientSession(read, write) as client:
        await client.initialize()
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {name for name, tool in tools.items() if tool.annotations.readOnlyHint} == LOOKS
        destroying = {name for name, tool in tools.items() if tool.annotations.destructiveHint}
        assert destroying == DESTROYS
        assert all(tool.description and tool.outputSchema for tool in tools.values())


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("turn", {"session_id": NEVER, "message": "Hi", "temprature": 1}, "temprature"),
        ("turn", {"session_id": NEVER}, "a turn takes messages"),
        ("fork", {"session_id": NEVER, "snapshot": "x", "tokens": 1}, "not both"),
        ("turn", {"message": "Hi"}, "session_id"),
        ("nothing", {}, "no tool 'nothing'"),
    ],
)
async def test_a_call_that_is_none_is_refused_with_its_reason(stage, tool, arguments, why):
    async with (
        streamable_http_client(f"{stage.runtime.url}/mcp") as (read, write, _),
        ClientSession(read, write) as client,
    ):
        await client.initialize()
        result = await client.call_tool(tool, arguments)
    assert result.isError
    assert result.structuredContent["code"] == "invalid_request"
    assert why in result.content[0].text


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_an_agent_of_ours_uses_them_as_its_tools(stage, way):
    command, *arguments = program(stage)
    server = (
        HttpServer(url=f"{stage.runtime.url}/mcp")
        if way == "http"
        else StdioServer(command=command, arguments=tuple(arguments))
    )
    async with McpClient("torpor", server) as client:
        registry = Registry(await client.tools())
        assert client.refused == {}
        made = await registry.call("torpor_create_session", {"system": SYSTEM})
        session = json.loads(made.text)["id"]
        asked = {"session_id": session, "message": "Tick."}
        said = await registry.call("torpor_turn", asked)
        assert not said.error
        assert json.loads(said.text)["snapshot"]
        refused = await registry.call("torpor_turn", {"session_id": NEVER, "message": "Tick."})
        assert refused.error
        assert "not_found" in refused.text


async def test_a_turn_ends_when_who_asked_for_it_goes_away(stage, torpor):
    session = await torpor.create(system=SYSTEM)  # without tools, which it could call instead
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "turn",
            "arguments": {
                "session_id": session.id,
                "message": "Count.",
                "json_schema": schema,
                "max_tokens": 4096,
            },
            "_meta": {"progressToken": 1},
        },
    }
    async with httpx.AsyncClient(trust_env=False, timeout=60.0) as http:
        request = http.stream("POST", f"{stage.runtime.url}/mcp", json=call, headers=ACCEPT)
        async with request as response:
            async for line in response.aiter_lines():
                if "answering" in line:
                    break
    async with asyncio.timeout(60):
        while (now := await torpor.get(session.id)).turn is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert now.head is None


# ---- keys, tenants and limits --------------------------------------------------------

ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture
async def keyed(stage, store):
    """Makes clients of a service in this process that asks for keys: `keyed(role, tenant)`."""
    app = create_app(
        RuntimeSettings(
            redis_url=stage.store.url,
            model_dir=stage.model,
            require_keys=True,
            body_limits={"bytes": 1 << 20},
        )
    )

    async def made(role=None, tenant="mcp-acme"):
        headers = dict(ACCEPT)
        if role is not None:
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant, role=role)
            headers["X-Api-Key"] = key
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://keyed", headers=headers)

    async with app.router.lifespan_context(app):
        yield made
    for tenant in ("mcp-acme", "mcp-globex"):
        await store.tenant(tenant)
        await store.delete_tenant(tenant)
        await store.create_tenant(tenant)  # so that the next test may use the name


async def called(http, tool, **arguments):
    """The result of a tool, in one request."""
    params = {"name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await http.post("/mcp", json=body)
    assert answer.status_code == 200, answer.text
    (data,) = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return json.loads(data.removeprefix("data: "))["result"]


async def test_a_call_may_do_what_its_key_may(keyed):
    async with (
        await keyed() as nobody,
        await keyed("use") as owner,
        await keyed("read") as reader,
        await keyed("use", "mcp-globex") as other,
    ):
        assert (await nobody.post("/mcp", json={})).status_code == 401
        made = await called(owner, "create_session")
        session = made["structuredContent"]["id"]
        assert not (await called(reader, "show_session", session_id=session))["isError"]
        refused = await called(reader, "delete_session", session_id=session)
        assert refused["structuredContent"]["code"] == "forbidden"
        for tool in ("show_session", "fork", "delete_session", "tree", "suspend"):
            foreign = await called(other, tool, session_id=session)
            never = await called(other, tool, session_id=NEVER)
            assert foreign["structuredContent"]["code"] == "not_found", tool
            said = foreign["content"][0]["text"].replace(session, NEVER)
            assert said == never["content"][0]["text"], tool
        theirs = await called(other, "list_sessions")
        assert theirs["structuredContent"] == {"sessions": [], "more": False}
        assert not (await called(owner, "delete_session", session_id=session))["isError"]


async def test_limits_of_bodies_hold_for_calls_too(keyed):
    async with await keyed("use") as http:
        much = await http.post("/mcp", json={"method": "x" * (1 << 20)})
        deep = await http.post(
            "/mcp", content="[" * 100 + "]" * 100, headers={"Content-Type": "application/json"}
        )
    assert (much.status_code, much.json()["code"]) == (413, "body_too_large")
    assert (deep.status_code, deep.json()["code"]) == (400, "too_deep")
