"""What a backend's model writes in calls, that only Python takes for JSON."""

import httpx
import pytest

from agent_runtime.sdk import Torpor
from tests.backends.scripted import says, sent
from tools.define import ToolSpec

DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    ("written", "arguments", "problem"),
    [
        (r'{"a": "\ud83d"}', {"a": "\ufffd"}, "halves of characters were replaced"),
        ('{"a": NaN}', {}, "are not JSON"),
        ('{"a": 1e999}', {}, "JSON has no inf"),
        (f'{{"a": {DEEP}}}', {}, "nested more than 60 deep"),
        (f'{{"a": {DEEP * 10}', {}, "are not JSON"),
    ],
)
async def test_it_is_told_and_the_session_goes_on(scripted_app, said, written, arguments, problem):
    function = {"name": "f", "arguments": written}
    made = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]}
    said.scripted += [says(made, finish="tool_calls"), says({"content": "I see."})]
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as torpor:
        tool = ToolSpec(name="f", description="", parameters={"type": "object", "properties": {}})
        session = await torpor.create(tools=[tool])
        turn = await torpor.turn(session.id, "Hi")
        assert [call.arguments for call in turn.tool_calls] == [arguments]
        assert any(problem in one for one in turn.problems)
        await torpor.turn(session.id, "And now?")
    assert sent(said)[-1] == ("user", "And now?")
