"""What clients of the MCP server do that mean harm, or are broken: each is refused by name, nothing
is left of them, and no tenant reaches another's sessions through it."""

import asyncio
import json
import os
import subprocess
import sys

import httpx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.mcp_server.tools import all_tools
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings
from state_store.store import StateStore
from tests.engine_cpu.server import MODEL
from tests.hostile.paced import Paced
from tests.hostile.test_hostile_clients import connected, post, reset, until
from tests.runtime.served import listening

ACCEPT = {"Accept": "application/json, text/event-stream"}
JSON = {**ACCEPT, "Content-Type": "application/json"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture
async def paced():
    async with Paced() as endpoint:
        yield endpoint


@pytest.fixture
async def http(bare_store, paced):
    """Of a service in this process, with small limits."""
    settings = RuntimeSettings.model_validate(
        {
            "redis_url": bare_store.url,
            "model_dir": MODEL,
            "backend": BackendSettings(url=paced.url, model="scripted"),
            "body_limits": {"bytes": 1 << 20},
        }
    )
    async with (
        listening(settings) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


def error_in(answer):
    """The code of a problem document or of a JSON-RPC error."""
    body = answer.json()
    if "code" in body:
        return body["code"]
    assert body["jsonrpc"] == "2.0"
    assert set(body["error"]) >= {"code", "message"}
    return body["error"]["code"]


@pytest.mark.parametrize(
    ("method", "headers", "body", "status", "code"),
    [
        ("POST", JSON, b"", 400, -32700),
        ("POST", JSON, b"{", 400, -32700),
        ("POST", JSON, b"null", 400, -32602),
        ("POST", JSON, b"[]", 400, -32602),
        ("POST", JSON, json.dumps([LIST, LIST]).encode(), 400, -32602),
        ("POST", JSON, b'{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}', 400, -32602),
        ("POST", JSON, b'{"jsonrpc": "2.0", "id": 1, "method": 7}', 400, -32602),
        ("POST", JSON, b'{"jsonrpc": "2.0", "id": 1, "method": "x", "params": 7}', 400, -32602),
        ("POST", JSON, b"\xff\xfe{}", 400, "malformed_body"),
        ("POST", JSON, b'{"id": "\\ud800"}', 400, "malformed_body"),
        ("POST", JSON, b'{"id": NaN}', 400, "malformed_body"),
        ("POST", JSON, b"[" * 65 + b"]" * 65, 400, "too_deep"),
        ("POST", JSON, b'"' + b"x" * (1 << 20) + b'"', 413, "body_too_large"),
        ("POST", {**ACCEPT, "Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ("POST", {**ACCEPT, "Content-Type": "multipart/form-data"}, b"x", 415,
         "unsupported_media_type"),
        ("POST", {**JSON, "Accept": "text/html"}, json.dumps(LIST).encode(), 406, -32600),
        ("POST", {**JSON, "MCP-Protocol-Version": "1999-01-01"}, json.dumps(LIST).encode(), 400,
         -32600),
        ("GET", ACCEPT, b"", 405, "method_not_allowed"),
        ("DELETE", {**ACCEPT, "Mcp-Session-Id": "x"}, b"", 405, "method_not_allowed"),
    ],
)  # fmt: skip
async def test_what_is_no_request_of_the_protocol_is_refused_by_name(
    http, method, headers, body, status, code
):
    answer = await http.request(method, "/mcp", headers=headers, content=body)
    assert answer.status_code == status, answer.text
    assert error_in(answer) == code
    assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("session", ["never-given", "x" * 4000, "ses-0", "%00", "é"])
async def test_a_session_id_of_the_transport_means_nothing_here(http, session):
    """Nothing is kept between calls."""
    headers = {**JSON, "Mcp-Session-Id": session.encode()}
    answer = await http.post("/mcp", headers=headers, json=LIST)
    assert answer.status_code == 200
    assert '"create_session"' in answer.text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
METHODS = ["initialize", "ping", "tools/list", "tools/call", "resources/list", "prompts/get",
           "notifications/initialized", "notifications/cancelled", "completion/complete",
           "logging/setLevel", "sampling/createMessage", "tasks/list"]  # fmt: skip
TOOLS = [tool.name for tool in all_tools(lambda: None)]
calls = st.fixed_dictionaries(
    {"name": st.sampled_from(TOOLS) | st.text(max_size=8)},
    optional={
        "arguments": st.dictionaries(
            st.sampled_from(["session_id", "message", "tokens", "turns", "limit", "labels"]),
            values | st.just("ses-0123456789abcdef-0123456789abcdef"), max_size=4,
        ) | values,
        "_meta": values | st.fixed_dictionaries({"progressToken": values}),
    },
)  # fmt: skip
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | values, "method": st.sampled_from(METHODS) | values},
    optional={"id": st.integers() | st.text(max_size=4) | values, "params": calls | values},
)


@settings(max_examples=75, derandomize=True, database=None, deadline=None)
@given(message=messages | values)
def test_any_message_is_answered_and_never_by_a_failure(runtime, message):
    answer = httpx.post(
        f"{runtime.url}/mcp", headers=JSON, content=json.dumps(message).encode(), trust_env=False,
        timeout=30,
    )  # fmt: skip
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    if answer.status_code >= 400:
        error_in(answer)


def call(tool, **arguments):
    params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": 1}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def told(http, message, headers=None):
    """The result of a call."""
    answer = await http.post("/mcp", headers={**ACCEPT, **(headers or {})}, json=message)
    assert answer.status_code == 200, answer.text
    *_, data = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return json.loads(data.removeprefix("data: "))["result"]


@pytest.mark.parametrize("when", ["before a token", "while it is answered", "before it is asked"])
async def test_a_client_that_goes_leaves_nothing_behind(http, paced, when):
    class Service:
        url = str(http.base_url).rstrip("/")

    session = (await http.post("/v1/sessions", json={"stateless": True})).json()["id"]
    accept = b"Accept: application/json, text/event-stream\r\n"

    async def visit():
        for _ in range(8):
            reader, writer = await connected(Service)
            request = post("/mcp", call("turn", session_id=session, message="Hello."), accept)
            before = paced.asked
            writer.write(request[:-9] if when == "before it is asked" else request)
            await writer.drain()
            if when != "before it is asked":
                await until(lambda: paced.asked > before)  # noqa: B023
            if when == "while it is answered":
                paced.say("81")
                await reader.readuntil(b"answering")
            reset(writer)
            await until(lambda: paced.left == paced.asked)
            await until(is_free)

    async def is_free():
        answer = await http.post(f"/v1/sessions/{session}/suspend", json={})
        return answer.status_code != 409

    async def in_use():
        await http.get("/health")
        return psutil.Process().num_fds(), len(asyncio.all_tasks())

    await visit()
    files, tasks = await in_use()
    await visit()

    async def are_no_more():
        now = await in_use()
        # A pool may have opened a connection or two more; a leak would be one for each visit.
        return now[0] <= files + 3 and now[1] <= tasks + 3

    await until(are_no_more)
    assert (await http.get(f"/v1/sessions/{session}")).json()["head"] is None


async def test_who_does_not_read_an_answer_keeps_nobody_else_waiting(http, paced):
    class Service:
        url = str(http.base_url).rstrip("/")

    session = (await http.post("/v1/sessions", json={"stateless": True})).json()["id"]
    _, writer = await connected(Service)
    accept = b"Accept: application/json, text/event-stream\r\n"
    request = post("/mcp", call("turn", session_id=session, message="Hello."), accept)
    writer.write(request)
    await until(lambda: paced.asked == 1)
    for _ in range(8):
        paced.say("x" * (1 << 20))
    paced.end()
    for _ in range(5):
        listed = await told(http, call("list_sessions", limit=1))
        assert not listed["isError"]
    reset(writer)
    await until(lambda: paced.left == paced.asked)

    async def is_over():
        return (await http.get(f"/v1/sessions/{session}")).json()["turn"] is None

    await until(is_over)


async def test_no_tool_reaches_another_tenants_session(bare_store, keyed):
    async with await StateStore.connect(bare_store.url) as store:
        sent = {}
        for tenant in ("mcp-ann", "mcp-ben"):
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant)
            sent[tenant] = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=keyed.url, trust_env=False, timeout=30) as http:
        made = {"stateless": True, "system": "Mine."}
        answer = await http.post("/v1/sessions", json=made, headers=sent["mcp-ann"])
        session = answer.json()["id"]
        said = await told(http, call("turn", session_id=session, message="Hi."), sent["mcp-ann"])
        snapshot = said["structuredContent"]["snapshot"]
        answer = await http.post("/v1/sessions", json=made, headers=sent["mcp-ben"])
        own_id = answer.json()["id"]
        asked = 0
        for tool in all_tools(lambda: None):
            if "session_id" not in tool.parameters.get("required", ()):
                continue
            needed = {"message": "Hi."} if tool.name == "turn" else {}
            needed |= {"other": own_id} if tool.name == "diff" else {}
            needed |= {"turns": 1} if tool.name == "rewind" else {}
            refused = await told(
                http, call(tool.name, session_id=session, **needed), sent["mcp-ben"]
            )
            assert refused["isError"], tool.name
            assert refused["structuredContent"]["code"] == "not_found", tool.name
            assert "Mine." not in json.dumps(refused)
            asked += 1
        assert asked >= 9
        for tool, names in (
            ("diff", {"other": session}), ("fork", {"snapshot": snapshot}),
            ("rewind", {"snapshot": snapshot}),
        ):  # fmt: skip
            refused = await told(http, call(tool, session_id=own_id, **names), sent["mcp-ben"])
            assert refused["isError"], tool
        listed = await told(http, call("list_sessions"), sent["mcp-ben"])
        assert [one["id"] for one in listed["structuredContent"]["sessions"]] == [own_id]
        kept = await told(http, call("show_session", session_id=session), sent["mcp-ann"])
        assert kept["structuredContent"]["session"]["head"] == snapshot


def test_the_program_answers_what_is_sound_after_what_is_not(runtime):
    command = [sys.executable, "-m", "agent_runtime.cli", "mcp", "--url", runtime.url]
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        },
    }
    lines = [
        b"nonsense", b"{", b"null", b"[]", b'{"jsonrpc": "1.0"}', b"\xff\xfe",
        b"[" * 100_000, b'{"jsonrpc": "2.0", "id": 7, "method": "' + b"x" * (1 << 20) + b'"}', b"",
        json.dumps(initialize).encode(),
        b'{"jsonrpc": "2.0", "method": "notifications/initialized"}',
        json.dumps({**call("show_session", session_id="ses-0"), "id": 2}).encode(),
        json.dumps({**LIST, "id": 3}).encode(),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as program:
        for line in lines:
            program.stdin.write(line + b"\n")
        program.stdin.flush()
        answers = {}
        while not {1, 2, 3} <= answers.keys():
            line = program.stdout.readline()
            assert line, "the program has ended"
            message = json.loads(line)
            answers[message.get("id")] = message
        program.stdin.close()
        assert program.wait(30) == 0
    assert answers[1]["result"]["serverInfo"]["name"] == "torpor"
    assert answers[2]["result"]["structuredContent"]["code"] == "invalid_id"
    assert len(answers[3]["result"]["tools"]) >= 12
