"""MCP servers are driven end to end: the reference server from the registry, and one of ours."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tools.calls import ToolCall
from tools.context import Context
from tools.effects import Effect
from tools.errors import McpUnauthorized, McpUnavailable
from tools.mcp import HttpServer, McpClient, Patience, Prompt, PromptMessage, StdioServer
from tools.registry import Registry
from tools.results import Ending
from tools.running import Executor, Place

HERE = Place("branch", "point")
OURS = str(Path(__file__).with_name("mcp_server.py"))
TIME = StdioServer(
    command=sys.executable, arguments=("-m", "mcp_server_time", "--local-timezone", "UTC")
)
STDIO = StdioServer(command=sys.executable, arguments=(OURS, "stdio"))
PATIENT = Patience(connect=60.0, call=60.0, answer=30.0)
HASTY = Patience(connect=4.0, answer=10.0, first_pause=0.05)
AT_ONCE = Patience(connect=1.0)  # where no connection can be had, however long one waits


def processes(word: str) -> list[psutil.Process]:
    """Those that this process started and whose command line holds `word`."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if word in " ".join(one.cmdline())]


async def until(seen, seconds=30.0):
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def tools_of(client):
    return {tool.spec.name: tool for tool in await client.tools()}


class HttpProcess:
    """Our server over HTTP, which can be killed and started again on its port."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = None

    def start(self, **environment):
        command = [sys.executable, OURS, "http", str(self.port), "right"]
        self.process = subprocess.Popen(command, env=os.environ | environment)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the server does not listen")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def at(self, **options):
        options.setdefault("bearer", "right")
        options.setdefault("url", f"http://127.0.0.1:{self.port}/mcp")
        return HttpServer(**options)


class Line:
    """A way to a port of this machine, which can be cut."""

    def __init__(self, port):
        self._port = port
        self._ends = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()

    def cut(self):
        """End all connections; new ones can be made."""
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    async def _serve(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends += [writer, back]
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def over_http():
    server = HttpProcess()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(over_http):
    return over_http.at()


# ---- the reference server ----------------------------------------------------------


async def test_the_reference_server_is_driven_end_to_end():
    async with McpClient("time", TIME, patience=PATIENT) as client:
        tools = await tools_of(client)
        assert set(tools) == {"time_get_current_time", "time_convert_time"}
        schema = tools["time_convert_time"].spec.parameters
        assert set(schema["required"]) == {"source_timezone", "time", "target_timezone"}
        registry = Registry(tools.values())
        result = await registry.call(
            "time_convert_time",
            {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"},
        )
        assert not result.error
        assert "T01:30:00+09:00" in result.text
        result = await registry.call("time_convert_time", {"time": "16:30"})
        assert result.ending is Ending.REFUSED
        assert "target_timezone" in result.text
        result = await registry.call("time_get_current_time", {"timezone": "Mars/Base"})
        assert result.ending is Ending.FAILED
        assert "Mars/Base" in result.text
        health = await client.health()
        assert health.server.startswith("mcp-time ")
        assert (await client.resources(), await client.prompts()) == ([], [])


async def test_the_reference_server_is_started_again_after_it_was_killed():
    async with McpClient("time", TIME, patience=PATIENT) as client:
        registry = Registry(await client.tools())
        for round_ in range(1, 4):
            result = await registry.call("time_get_current_time", {"timezone": "UTC"})
            assert '"timezone": "UTC"' in result.text
            assert (await client.health()).connections == round_
            (process,) = processes("mcp_server_time")
            process.kill()
    await until(lambda: not processes("mcp_server_time"))


# ---- tools, resources, prompts -----------------------------------------------------


async def test_tools_are_called_with_their_schemas(server):
    async with McpClient("our", server, patience=PATIENT) as client:
        tools = await tools_of(client)
        assert tools["our_add"].spec.description == "Adds two numbers."
        assert tools["our_add"].spec.parameters["properties"]["b"]["default"] == 1
        assert (await tools["our_add"].call({"a": "2"})).text == "3"
        assert (await tools["our_add"].call({"a": "two"})).ending is Ending.REFUSED
        result = await tools["our_fail"].call({})
        assert result.ending is Ending.FAILED
        assert "no such thing" in result.text


async def test_progress_is_heard(server):
    heard = []
    async with McpClient("our", server, patience=PATIENT) as client:
        tools = await tools_of(client)
        result = await tools["our_steps"].call({}, Context(on_progress=heard.append))
    assert result.text == "all"
    assert [(one.text, one.done, one.total) for one in heard] == [
        ("step 1", 1, 3), ("step 2", 2, 3), ("step 3", 3, 3)
    ]  # fmt: skip


async def test_results_are_limited_in_size(server):
    async with McpClient("our", server, patience=PATIENT, max_chars=1000, most_bytes=100) as client:
        tools = await tools_of(client)
        result = await tools["our_long"].call({})
        assert len(result.text) < 1300
        assert "left out" in result.text
        result = await tools["our_picture"].call({"size": 100})
        (file,) = result.files
        assert (file.media_type, file.data) == ("image/png", b"P" * 100)
        result = await tools["our_picture"].call({"size": 200})
        assert (result.text, result.files) == ("[left out: image, over 100 bytes]", ())


async def test_names_are_ones_that_models_take(server):
    async with McpClient("our", server, patience=PATIENT) as client:
        names = [name for name in await tools_of(client) if "odd" in name]
        assert len(names) == 1
        assert len(names[0]) == 64
        assert names[0].startswith("our_a_tool_with_oddxxx")


async def test_a_tool_that_is_added_later_is_listed(server):
    async with McpClient("our", server, patience=PATIENT) as client:
        tools = await tools_of(client)
        await tools["our_learn"].call({})
        end = time.monotonic() + 30
        while "our_learned" not in await tools_of(client):
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert (await (await tools_of(client))["our_learned"].call({})).text == "new"


async def test_a_tool_that_is_added_while_they_are_listed_is_listed_next(monkeypatch):
    async with McpClient("our", STDIO, patience=PATIENT) as client:
        learn = (await tools_of(client))["our_learn"]
        listed, heard = client._listed, asyncio.Event()

        async def and_then_changed(*asked):
            answer = await listed(*asked)
            await learn.call({})
            await heard.wait()
            return answer

        def hear(method):
            client_heard(method)
            heard.set()

        client_heard = client._connection._on_notification
        monkeypatch.setattr(client._connection, "_on_notification", hear)
        monkeypatch.setattr(client, "_listed", and_then_changed)
        client_heard("notifications/tools/list_changed")
        assert "our_learned" not in await tools_of(client)
        monkeypatch.setattr(client, "_listed", listed)
        assert "our_learned" in await tools_of(client)


async def test_resources_are_listed_and_read(server):
    async with McpClient("our", server, patience=PATIENT) as client:
        found = {one.uri: one for one in await client.resources()}
        assert found["notes://today"].description == "Notes of today."
        assert (await client.read_resource("notes://today")).text == "today's notes"
        (file,) = (await client.read_resource("bytes://four")).files
        assert (file.name, file.data) == ("bytes://four", b"\0\1\2\3")
        tool = client.resource_tool()
        assert tool.spec.name == "our_read_resource"
        assert (await tool.call({"uri": "notes://today"})).text == "today's notes"
        result = await tool.call({"uri": "notes://tomorrow"})
        assert result.error
        assert result.text.startswith("our refused: ")


async def test_prompts_are_listed_and_filled(server):
    async with McpClient("our", server, patience=PATIENT) as client:
        assert await client.prompts() == [
            Prompt("review", "Asks for a review.", {"code": True, "tone": False})
        ]
        assert await client.prompt("review", {"code": "x = 1"}) == [
            PromptMessage("user", "Review in a kind tone: x = 1")
        ]


async def test_what_a_server_says_of_effects_is_believed_only_if_it_is_trusted(server):
    for trusted, effect in ((False, Effect.EFFECTFUL), (True, Effect.PURE)):
        async with McpClient("our", server, patience=PATIENT, trusted=trusted) as client:
            tools = await tools_of(client)
            assert tools["our_add"].effect is effect
            assert tools["our_count"].effect is Effect.EFFECTFUL


async def test_nothing_of_our_environment_comes_along(monkeypatch):
    monkeypatch.setenv("SECRET", "sk-1")
    monkeypatch.setenv("OTHER", "sk-2")
    server = STDIO.model_copy(update={"environment": {"OTHER": "given"}})
    async with McpClient("our", server, patience=PATIENT) as client:
        tools = await tools_of(client)
        assert (await tools["our_add"].call({"a": "2"})).text == "3"
        (odd,) = [one for name, one in tools.items() if "odd" in name]
        assert (await odd.call({})).text == "None given"


# ---- connections that break --------------------------------------------------------


@pytest.fixture
def own_server():
    server = HttpProcess()
    server.start()
    yield server
    server.kill()


async def kill_in_a_call(client, tool, counter, kill):
    """Call it, kill the server once it has begun; the result."""
    calls = Executor(Registry([tool]))
    running = asyncio.create_task(
        calls.run(
            [ToolCall(name=tool.spec.name, arguments={"file": str(counter), "seconds": 30})], HERE
        )
    )
    await until(lambda: counter.exists() and counter.read_text())
    kill()
    (result,) = await running
    return result


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_an_effectful_call_whose_server_is_killed_is_unknown_and_not_repeated(
    kind, tmp_path, request
):
    counter = tmp_path / "counter"
    if kind == "stdio":
        server, own = STDIO, None
    else:
        own = request.getfixturevalue("own_server")
        server = own.at()

    def kill():
        if own is not None:
            own.kill()
            own.start()
        else:
            processes("mcp_server.py stdio")[0].kill()

    async with McpClient("our", server, patience=PATIENT) as client:
        tools = await tools_of(client)
        result = await kill_in_a_call(client, tools["our_count"], counter, kill)
        assert result.ending is Ending.UNKNOWN
        assert "whether it did its work is not known" in result.text
        # The very same tool works again, on a connection that was made anew.
        result = await tools["our_count"].call({"file": str(counter), "seconds": 0})
        assert result.text == "counted"
        assert (await client.health()).connections == 2
    assert counter.read_text() == "xx"


async def test_a_call_that_only_reads_is_made_again_when_its_server_was_killed(tmp_path):
    counter = tmp_path / "counter"

    def kill():
        processes("mcp_server.py stdio")[0].kill()

    async with McpClient("our", STDIO, patience=PATIENT, trusted=True) as client:
        tool = (await tools_of(client))["our_look"]
        calls = Executor(Registry([tool]))
        running = asyncio.create_task(
            calls.run(
                [ToolCall(name="our_look", arguments={"file": str(counter), "seconds": 30})], HERE
            )
        )
        await until(lambda: counter.exists() and counter.read_text())
        kill()
        (result,) = await running
    assert result.text == "counted"
    assert counter.read_text() == "xx"


@pytest.fixture
def mixed():
    server = HttpProcess()
    server.start(MIXED="1")
    yield server
    server.kill()


async def test_a_call_goes_on_when_the_line_breaks_and_gets_no_answer_of_another(tmp_path, mixed):
    """Some servers repeat on a stream that is resumed what was said on others, too."""
    counter = tmp_path / "counter"
    async with Line(mixed.port) as line:
        server = mixed.at(url=f"http://127.0.0.1:{line.port}/mcp")
        async with McpClient("our", server, patience=PATIENT) as client:
            tools = await tools_of(client)
            arguments = {"file": str(counter), "seconds": 2}
            running = asyncio.create_task(tools["our_count"].call(arguments))
            await until(lambda: counter.exists() and counter.read_text())
            assert (await tools["our_add"].call({"a": 1})).text == "2"
            line.cut()
            assert (await running).text == "counted"
            assert (await client.health()).connections == 1
    assert counter.read_text() == "x"


async def test_calls_wait_for_a_server_that_comes_back_and_give_up_on_one_that_does_not(
    own_server,
):
    async with McpClient("our", own_server.at(), patience=HASTY) as client:
        tool = (await tools_of(client))["our_add"]
        own_server.kill()
        result = await tool.call({"a": 1})
        assert result.ending is Ending.FAILED
        assert "the MCP server our can't be reached" in result.text
        assert "nothing was asked of it" in result.text
        own_server.start()
        end = time.monotonic() + 30
        while (result := await tool.call({"a": 1})).error:
            assert time.monotonic() < end
        assert result.text == "2"


async def test_a_server_that_stops_answering_is_noticed_and_replaced():
    async with McpClient(
        "our", STDIO, patience=Patience(connect=30.0, answer=3.0, watch=0.2, first_pause=0.01)
    ) as client:
        (process,) = processes("mcp_server.py stdio")
        process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: client._connection._connections >= 2)
        finally:
            if process.is_running():
                process.kill()
        assert (await (await tools_of(client))["our_add"].call({"a": 1})).text == "2"


async def test_a_wrong_token_is_told_and_not_tried_again(over_http):
    for bearer in (None, "wrong"):
        client = McpClient("our", over_http.at(bearer=bearer), patience=PATIENT)
        with pytest.raises(McpUnauthorized, match="refuses us: HTTP 401 Unauthorized"):
            await client.__aenter__()


async def test_an_auth_object_is_passed_through(over_http):
    class Auth(httpx.Auth):
        def auth_flow(self, request):
            request.headers["Authorization"] = "Bearer right"
            yield request

    async with McpClient("our", over_http.at(bearer=None, auth=Auth()), patience=PATIENT) as client:
        assert "our_add" in await tools_of(client)


async def test_a_program_that_ends_at_once_is_told_with_what_it_said():
    server = StdioServer(command="sh", arguments=("-c", "echo 'broken: no licence' >&2; exit 1"))
    with pytest.raises(McpUnavailable, match="broken: no licence"):
        await McpClient("our", server, patience=Patience(connect=5.0)).__aenter__()
    with pytest.raises(McpUnavailable, match="No such file"):
        await McpClient("our", StdioServer(command="no-such"), patience=AT_ONCE).__aenter__()


async def test_a_server_that_nobody_listens_for_is_told():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    server = HttpServer(url=f"http://127.0.0.1:{port}/mcp")
    with pytest.raises(McpUnavailable, match="can't be reached"):
        await McpClient("our", server, patience=AT_ONCE).__aenter__()


async def test_a_call_that_takes_too_long_is_given_up_and_the_connection_stays(tmp_path):
    patience = Patience(connect=60.0, answer=30.0, call=0.5)
    async with McpClient("our", STDIO, patience=patience) as client:
        tools = await tools_of(client)
        result = await tools["our_count"].call({"file": str(tmp_path / "c"), "seconds": 30})
        assert result.ending is Ending.UNKNOWN
        assert "did not answer within 0.5 seconds" in result.text
        assert (await client.health()).connections == 1
        await until(lambda: (tmp_path / "c").read_text() == "x cancelled")


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_call_that_is_cancelled_is_cancelled_at_the_server_too(kind, tmp_path, over_http):
    counter = tmp_path / "c"
    async with McpClient(
        "our", STDIO if kind == "stdio" else over_http.at(), patience=PATIENT
    ) as client:
        tools = await tools_of(client)
        running = asyncio.create_task(
            tools["our_count"].call({"file": str(counter), "seconds": 30})
        )
        await until(lambda: counter.exists() and counter.read_text())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: counter.read_text() == "x cancelled")
        assert (await tools["our_add"].call({"a": 1})).text == "2"
        assert (await client.health()).connections == 1


async def test_a_closed_client_leaves_no_process_and_refuses():
    async with McpClient("our", STDIO, patience=PATIENT) as client:
        tool = (await tools_of(client))["our_add"]
        (process,) = processes("mcp_server.py stdio")
    await until(lambda: not process.is_running())
    result = await tool.call({"a": 1})
    assert result.text == "the MCP client of our is closed."
