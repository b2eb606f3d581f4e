"""The client library, with ids, answers and files that are not as they should be."""

import json

import httpx
import pytest

from agent_runtime.errors import BadRequest, InvalidRequest
from agent_runtime.mcp_server.tools import all_tools
from agent_runtime.sdk import ApiError, ApiUnreachable, Torpor
from agent_runtime.wire.session_events import Deleted, TurnBegan, TurnCommitted
from agent_runtime.wire.sessions import SessionView
from engine.lines import lines_of
from tests.backends.endpoint import DONE, USAGE, Scripted
from tests.backends.scripted import says


@pytest.fixture
async def torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as client:
        yield client


def answering(*, then=None, **answer):
    """A client of something that gives the same answer to everything."""

    def answered(_):
        return httpx.Response(**answer)

    return Torpor("http://x", transport=httpx.MockTransport(then or answered))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
async def test_what_ends_a_line_in_unicode_ends_none_in_a_stream(torpor, said, mark):
    text = f"one{mark}two"
    as_it_is = {"model": "m", "choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
    raw = f"data: {json.dumps(as_it_is, ensure_ascii=False)}\n\n"
    said.scripted.append(Scripted(raw + USAGE + DONE))
    session = await torpor.create()
    assert (await torpor.turn(session.id, "Hi")).text == text


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_lines_are_the_same_however_they_come(size):
    whole = "a\r\nb\n\nc\u2028d\re\r\n\r\nf".encode()

    async def pieces():
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    response = httpx.Response(200, content=pieces())
    lines = [line async for line in lines_of(response)]
    assert lines == ["a", "b", "", "c\u2028d", "e", "", "f"]


async def test_an_id_leads_nowhere_else(torpor):
    await torpor.add_items("notes", [1, 2, 3])
    for going in (torpor.delete("../items/notes"), torpor.cancel("../items/notes/pop#")):
        with pytest.raises(ApiError) as refused:
            await going
        assert refused.value.status == 404
    for no_id in ("", ".", ".."):
        with pytest.raises(BadRequest, match="no id of sessions"):
            await torpor.get(no_id)
    assert await torpor.items("notes") == [1, 2, 3]
    delete = next(tool for tool in all_tools(lambda: torpor) if tool.name == "delete_session")
    with pytest.raises(Exception, match="should match pattern"):
        await delete.run({"session_id": "../items/notes"})


async def test_what_cannot_be_sent_is_refused_by_a_name_before_it_is(torpor):
    session = await torpor.create()
    refused = [
        (torpor.turn(session.id, "Hi", max_tokens=0), "max_tokens"),
        (torpor.turn(session.id, "Hi", foo=1), "foo"),
        (torpor.converse([], foo=1), "foo"),
        (torpor.create(tools=[{"name": "x"}]), "tools.0"),
        (torpor.fork(session.id, tokens=-1), "tokens"),
        (torpor.forks(session.id, -1), "count"),
        (torpor.rewind(session.id, turns=-1), "turns"),
        (torpor.hold(session.id, seconds=-1.0), "seconds"),
        (torpor.persist(session.id, durability=5), "durability"),
        (torpor.suspend(session.id, durability=5), "durability"),
        (torpor.resume(session.id, strict="maybe"), "strict"),
    ]
    for sending, param in refused:
        with pytest.raises(InvalidRequest, match="Nothing was sent") as wrong:
            await sending
        assert wrong.value.param.startswith(param)


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        ({"status_code": 200, "text": "<html>"}, None),
        ({"status_code": 200, "json": {"a": 1}}, None),
        ({"status_code": 307, "headers": {"Location": "/"}}, None),
        ({"status_code": 503, "headers": {"Retry-After": "soon"}, "text": "busy"}, None),
        (
            {
                "status_code": 503,
                "headers": {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"},
                "text": "busy",
            },
            0.0,
        ),
    ],
)
async def test_an_answer_that_is_none_of_the_services_has_a_name(answer, wait):
    async with answering(**answer) as torpor:
        for asking in (torpor.get("ses-1"), torpor.scheduling(), torpor.items("a")):
            with pytest.raises(ApiError) as unexpected:
                await asking
            assert unexpected.value.code == "unexpected"
            assert unexpected.value.retry_after == wait


async def test_events_that_are_not_known_are_passed_over_and_half_ones_are_none():
    body = b'event: news\ndata: {}\n\n: comment\n\nevent: text\ndata: {"te'
    async with answering(status_code=200, content=body) as torpor:
        with pytest.raises(ApiUnreachable):
            await torpor.turn("ses-1", "Hi")
    async with answering(status_code=200, content=b"event: text\ndata: {]\n\n") as torpor:
        with pytest.raises(ApiError, match=r"\{\]"):
            await torpor.turn("ses-1", "Hi")


async def test_an_export_that_breaks_off_leaves_the_file_that_was_there(tmp_path):
    class Half(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"half"
            raise httpx.ReadError("reset")

    file = tmp_path / "a.torpor"
    file.write_bytes(b"yesterday's export")
    async with answering(then=lambda _: httpx.Response(200, stream=Half())) as broken:
        with pytest.raises(ApiUnreachable):
            await broken.export("ses-1", file)
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == b"yesterday's export"


async def test_what_happens_to_a_session_is_followed_and_gone_on_with(runtime, endpoint):
    endpoint.scripted.append(says({"content": "Hello."}))
    async with Torpor(runtime.url) as torpor:
        session = await torpor.create()
        events = torpor.events(session.id)
        first = await anext(events)
        assert isinstance(first.event, SessionView)
        await torpor.turn(session.id, "Hi")
        began = await anext(events)
        assert isinstance(began.event, TurnBegan)
        await events.aclose()
        events = torpor.events(session.id, after=began.id)
        rest = [await anext(events)]
        await torpor.delete(session.id)
        rest += [told async for told in events]
        assert [type(told.event) for told in rest] == [TurnCommitted, Deleted]


async def test_sessions_are_listed_by_where_they_are_and_forked_only_where_expected(torpor):
    session = await torpor.create()
    assert session.id not in {one.id async for one in torpor.sessions(residency="lost")}
    assert session.id in {one.id async for one in torpor.sessions(residency=session.residency)}
    with pytest.raises(ApiError) as moved:
        await torpor.forks(session.id, 2, expected_head="snp-1")
    assert moved.value.code == "head_moved"


async def test_a_failed_import_tells_nothing_of_where_the_service_keeps_files(torpor, tmp_path):
    file = tmp_path / "mine.torpor"
    file.write_bytes(b"junk")
    with pytest.raises(ApiError, match="cannot be imported") as refused:
        await torpor.import_session(file)
    assert refused.value.code == "invalid_export"
    assert "/" not in refused.value.problem.detail
