"""The protocol's reference servers for Node are driven end to end."""

import pytest

from tools.context import Context
from tools.mcp import McpClient, Patience, StdioServer
from tools.results import Ending

PATIENT = Patience(connect=60.0, call=60.0, answer=30.0)


@pytest.fixture
def server(node_programs):
    def server(name, *arguments):
        program = node_programs / "node_modules" / ".bin" / f"mcp-server-{name}"
        return StdioServer(command="node", arguments=(str(program), *map(str, arguments)))

    return server


async def tools_of(client):
    return {tool.spec.name.partition("_")[2]: tool for tool in await client.tools()}


async def test_the_server_that_has_everything(server):
    async with McpClient("all", server("everything"), patience=PATIENT, trusted=True) as client:
        tools = await tools_of(client)
        assert client.refused == {}
        assert (await tools["echo"].call({"message": "é"})).text == "Echo: é"
        assert (await tools["get-sum"].call({"a": "1", "b": 2})).text == "The sum of 1 and 2 is 3."
        wrong = await tools["get-sum"].call({"a": "one"})
        assert wrong.ending is Ending.REFUSED
        assert "- b: missing" in wrong.text
        (image,) = (await tools["get-tiny-image"].call({})).files
        assert (image.media_type, image.data[:4]) == ("image/png", b"\x89PNG")
        weather = await tools["get-structured-content"].call({"location": "New York"})
        assert "temperature" in weather.text
        heard = []
        long = tools["trigger-long-running-operation"]
        done = await long.call({"duration": 0.2, "steps": 2}, Context(on_progress=heard.append))
        assert done.ending is Ending.DONE
        assert [(one.done, one.total) for one in heard] == [(1, 2), (2, 2)]
        # What we do not offer to a server: its models, our people, our folders.
        assert not {"trigger-sampling-request", "trigger-elicitation-request"} & set(tools)
        assert "get-roots-list" not in tools
        documents = await client.resources()
        assert (await client.read_resource(documents[0].uri)).text
        asked = await client.prompt("args-prompt", {"city": "Rome", "state": "Lazio"})
        assert "Rome, Lazio" in asked[0].text


async def test_the_server_of_a_folder(server, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    async with McpClient("files", server("filesystem", folder), patience=PATIENT) as client:
        tools = await tools_of(client)
        written = await tools["write_file"].call({"path": f"{folder}/a", "content": "one\n"})
        assert written.ending is Ending.DONE
        assert (folder / "a").read_text() == "one\n"
        assert (await tools["read_text_file"].call({"path": f"{folder}/a"})).text == "one\n"
        outside = await tools["read_text_file"].call({"path": f"{folder}/../secret"})
        assert outside.ending is Ending.FAILED
        assert "outside allowed directories" in outside.text
