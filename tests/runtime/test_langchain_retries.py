"""ChatTorpor asks again for an answer that broke off, and it is generated and given once."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest
from langchain_core.messages import HumanMessage

from agent_runtime.langchain import ChatTorpor
from agent_runtime.langchain.retrying import asked_again
from agent_runtime.sdk import ApiError, ApiUnreachable
from agent_runtime.wire.problems import Problem
from engine.demo_model import dialogues

QUESTION = dialogues.repeat("harbour closed given licence").user


class Breaking:
    """Passes on what a runtime answers, and hangs up after so many pieces of text, once for each
    number in `breaks`. The runtime is read to its end first if `hears_out`."""

    def __init__(self, upstream):
        self.breaks = []
        self.hears_out = False
        self.asked = 0
        self._upstream = urlsplit(upstream)

    async def __aenter__(self):
        self._serving = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader, writer):
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader, writer):
        self.asked += 1
        up, to_runtime = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        asking = asyncio.create_task(self._pass(reader, to_runtime))
        try:
            await self._answer(up, writer)
        finally:
            asking.cancel()
            for side in (writer, to_runtime):
                side.close()
                with contextlib.suppress(OSError):
                    await side.wait_closed()

    async def _answer(self, up, writer):
        pieces = 0
        with contextlib.suppress(OSError):
            while line := await up.readline():
                pieces += line.startswith(b"event: text")
                if self.breaks and pieces > self.breaks[0]:
                    del self.breaks[0]
                    while self.hears_out and b"event: result" not in line:
                        line = await up.readline()
                    return
                writer.write(line)
                await writer.drain()

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def breaking(stage, nothing_left):
    async with Breaking(stage.runtime.url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("agent_runtime.sdk.errors._PAUSE", 0.05)


@pytest.mark.parametrize("hears_out", [False, True], ids=["before its commit", "after its commit"])
@pytest.mark.parametrize("where", ["in a session", "anywhere"])
async def test_an_answer_that_breaks_off_is_given_once_and_taken_once(
    breaking, stage, torpor, hears_out, where
):
    session = (await torpor.create()).id if where == "in a session" else None
    whole = await ChatTorpor(url=stage.runtime.url, max_tokens=48).ainvoke(QUESTION)
    model = ChatTorpor(url=breaking.url, max_tokens=48, session=session)
    breaking.breaks, breaking.hears_out = [2, 5], hears_out
    chunks = [chunk async for chunk in model.astream([HumanMessage(QUESTION)])]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    # The second attempt may find the first one's answer committed, which then comes in one piece.
    assert (breaking.breaks in ([], [5]), breaking.asked >= 2) == (True, True)
    told = chunks[-1].response_metadata or chunks[-2].response_metadata
    assert len(await torpor.snapshots(told["session"])) == 1


async def test_an_answer_is_not_asked_for_more_often_than_is_wanted(breaking):
    breaking.breaks = [0, 0, 0]
    model = ChatTorpor(url=breaking.url, max_tokens=48, max_retries=1)
    with pytest.raises(ApiUnreachable):
        await model.ainvoke(QUESTION)
    assert (breaking.asked, breaking.breaks) == (2, [0])


def attempts(*scripts):
    """Each script: what one attempt gives, and raises if its last is an error."""
    left = list(scripts)

    async def ask():
        for one in left.pop(0):
            if isinstance(one, Exception):
                raise one
            yield one

    return ask


def problem(status, code, retry_after=None):
    told = Problem(title="", status=status, code=code, detail=code)
    return ApiError(told, retry_after=retry_after)


async def given(ask, retries=2):
    return [piece async for piece in asked_again(ask, retries=retries)]


async def test_only_what_was_not_given_yet_is_given():
    ask = attempts(["ab", ApiUnreachable("gone")], ["a", "bcd", "e"])
    assert await given(ask) == ["ab", "cd", "e"]


async def test_an_answer_that_is_another_than_what_was_given_is_not_mixed_with_it():
    ask = attempts(["ab", ApiUnreachable("gone")], ["ax", "y"])
    with pytest.raises(ApiUnreachable, match="gone"):
        await given(ask)


async def test_what_passes_is_waited_for_and_what_does_not_is_raised_at_once():
    passing = [problem(429, "overloaded", 0.01), problem(503, "no_engine"), ApiUnreachable("gone")]
    assert await given(attempts(*([one] for one in passing), ["done"]), retries=3) == ["done"]
    still = problem(409, "still_running", 0.01)
    assert await given(attempts([still], ["done"])) == ["done"]
    with pytest.raises(ApiError, match="head_moved"):
        await given(attempts([problem(409, "head_moved")], ["done"]))
