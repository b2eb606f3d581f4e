"""The client of OpenAI-compatible endpoints, against a real server that does it all wrong."""

import pytest

from engine.backends.chat import Answer, Backend
from engine.backends.settings import BackendSettings
from engine.backends.stream import Call, Piece
from engine.client import Sampling
from engine.errors import (
    BackendBusy,
    BackendKeyMissing,
    BackendMalformed,
    BackendUnauthorized,
    EngineRefused,
    EngineUnreachable,
)
from tests.backends.endpoint import DONE, USAGE, Endpoint, Scripted, event

HELLO = event({"role": "assistant", "content": "Hel"}) + event({"content": "lo."})
STOP = event(finish_reason="stop")
KEY = "sk-secret"


@pytest.fixture(scope="module")
def scripted():
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
async def backend(scripted, monkeypatch):
    monkeypatch.setenv("TORPOR_BACKEND_KEY", KEY)
    backend = Backend(BackendSettings(url=scripted.url, model="m", timeout=30))
    yield backend
    await backend.close()


async def asked(backend, **options):
    sampling = Sampling(max_new_tokens=5, temperature=0.5, top_p=0.9, seed=7)
    messages = [{"role": "user", "content": "Hi"}]
    events = backend.complete(messages, tools=options.get("tools", ()), sampling=sampling)
    return [one async for one in events]


async def test_an_answer_comes_in_pieces_and_then_whole(scripted, backend):
    scripted.scripted.append(Scripted(": a comment\n\n" + HELLO + STOP + USAGE + DONE))
    *pieces, answer = await asked(backend)
    assert pieces == [Piece("Hel", ""), Piece("lo.", "")]
    assert answer == Answer("Hello.", "", (), "stop", 9, 2, 0, "scripted", 0)


async def test_the_request_says_what_was_asked(scripted, backend):
    scripted.scripted.append(Scripted(HELLO + STOP + USAGE + DONE))
    tool = {"type": "function", "function": {"name": "f"}}
    await asked(backend, tools=[tool])
    headers, body = scripted.seen[-1]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "tools": [tool],
    }


async def test_reasoning_calls_and_cached_tokens_are_read(scripted, backend):
    def part(index, **more):
        return event({"tool_calls": [{"index": index, **more}]})

    stream = (
        event({"reasoning_content": "Hm"})
        + event({"reasoning": "m."})
        + part(0, id="a", function={"name": "add", "arguments": '{"x"'})
        + part(1, id="b", function={"name": "now", "arguments": "{}"})
        + part(0, function={"arguments": ": 1}"})
        + event(finish_reason="tool_calls")
        + event(
            usage={
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
            }
        )
    )
    scripted.scripted.append(Scripted(stream + DONE))
    answer = (await asked(backend))[-1]
    assert answer.reasoning == "Hmm."
    assert answer.calls == (Call("a", "add", '{"x": 1}'), Call("b", "now", "{}"))
    assert (answer.finish_reason, answer.cached_tokens) == ("tool_calls", 4)


def call(name=None, arguments=None, **more):
    return {"function": {"name": name, "arguments": arguments}, **more}


F, G = Call("a", "f", "{}"), Call("b", "g", "[]")


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        ([[call("f", "{}", id="a"), call("g", "[]", id="b")]], (F, G)),  # without an index
        ([[call("f", "{", id="a")], [call(None, "}")], [call("g", "[]", id="b")]], (F, G)),
        ([[call("f", "{}", id="a", index=0)], [call("g", "[]", id="b", index=0)]], (F, G)),
        ([[call("f", "{", id="a", index=0)], [call(None, "}", id="x", index=0)]], (F,)),
        ([[call("f", "{", id="a", index=0)], [call("f", "}", id="a", index=0)]], (F,)),
        ([[call("f", "{}", id="a", index=0), {"index": 0, "function": None}]], (F,)),
        ([[call("f", "{}"), call("f", "{}")]], (Call("", "f", "{}"), Call("", "f", "{}"))),
        ([[call("f", r'"\ud83d', id="a", index=0)], [call(None, '"', index=0)]],
         (Call("a", "f", r'"\ud83d"'),)),
        ([[call("f", '"\ud83d', id="a", index=0)], [call(None, '\ude00"', index=0)]],
         (Call("a", "f", '"\U0001f600"'),)),
    ],
)  # fmt: skip
async def test_calls_are_told_apart_however_they_are_numbered(scripted, backend, parts, calls):
    events = "".join(event({"tool_calls": part}) for part in parts)
    scripted.scripted.append(Scripted(events + event(finish_reason="tool_calls") + USAGE + DONE))
    (answer,) = await asked(backend)
    assert answer.calls == calls


async def test_null_stands_for_what_is_not_there(scripted, backend):
    nothing = 'data: {"choices": [{"delta": null, "finish_reason": null}], "usage": null}\n\n'
    scripted.scripted.append(Scripted(nothing + HELLO + STOP + USAGE + DONE))
    *_, answer = await asked(backend)
    assert answer.text == "Hello."


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
async def test_a_character_that_is_cut_in_two_comes_whole_or_is_replaced(scripted, backend, field):
    halves = [event({field: part}) for part in ("a\ud83d", "\ude00b\ude00", "c\ud83d")]
    scripted.scripted.append(Scripted("".join(halves) + STOP + USAGE + DONE))
    *pieces, answer = await asked(backend)
    name = "text" if field == "content" else "reasoning"
    assert [getattr(piece, name) for piece in pieces] == ["a", "\U0001f600b\ufffd", "c", "\ufffd"]
    assert getattr(answer, name) == "a\U0001f600b\ufffdc\ufffd"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_told_without_the_key(scripted, backend, status):
    scripted.scripted.append(Scripted(f"Incorrect API key provided: {KEY}", status))
    with pytest.raises(BackendUnauthorized) as caught:
        await asked(backend)
    assert "Incorrect API key provided: [key]." in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2815 07:28:00 -0000", 1e10, 1e12),
    ],
)
async def test_a_busy_endpoint_says_when_to_come_back(scripted, backend, header, low, high):
    scripted.scripted.append(Scripted("slow down", 429, {"Retry-After": header}))
    with pytest.raises(BackendBusy) as caught:
        await asked(backend)
    assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}])
async def test_a_busy_endpoint_that_does_not_say_when(scripted, backend, headers):
    scripted.scripted.append(Scripted("overloaded", 503, headers))
    with pytest.raises(BackendBusy, match=r"repeat the turn later") as caught:
        await asked(backend)
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Scripted("boom", 500), EngineRefused, "status 500: boom."),
        (Scripted("", 302, {"Location": "http://x/"}), EngineRefused, "status 302"),
        (Scripted("x" * 600, 400), EngineRefused, "x" * 500 + "…"),
        (Scripted(event(error={"message": "OOM"})), EngineRefused, "OOM"),
        (Scripted(HELLO + event(error="OOM")), EngineRefused, "OOM"),
        (Scripted("data: {nonsense\n\n"), BackendMalformed, "nonsense"),
        (Scripted('data: {"choices": 3}\n\n'), BackendMalformed, "is not one"),
        (Scripted("{}", 200, {"Content-Type": "application/json"}), BackendMalformed, "json"),
        (Scripted(HELLO + STOP + DONE), BackendMalformed, "usage"),
        (Scripted(HELLO), EngineUnreachable, "in the middle of the answer"),
        (Scripted(HELLO + STOP), EngineUnreachable, "in the middle of the answer"),
        (Scripted(HELLO + USAGE + DONE), EngineUnreachable, "in the middle of the answer"),
        (Scripted(HELLO, length=9999), EngineUnreachable, "broke off"),
    ],
)
async def test_what_is_no_answer_is_an_error(scripted, backend, answer, error, words):
    scripted.scripted.append(answer)
    with pytest.raises(error) as caught:
        await asked(backend)
    assert type(caught.value) is error
    assert words in str(caught.value)


async def test_a_stream_with_all_of_the_answer_needs_no_done(scripted, backend):
    scripted.scripted.append(Scripted(HELLO + STOP + USAGE))
    assert (await asked(backend))[-1].text == "Hello."


async def test_an_endpoint_that_is_not_there_is_unreachable():
    gone = Endpoint()
    gone.close()
    backend = Backend(BackendSettings(url=gone.url, model="m"))
    with pytest.raises(EngineUnreachable, match="broke off"):
        await asked(backend)
    await backend.close()


@pytest.mark.parametrize("value", [None, " ", "schlüssel", "a\nb"])
def test_a_named_key_is_there_or_refused(monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(BackendKeyMissing, match="SOME_KEY") as caught:
        Backend(BackendSettings(url="http://localhost/v1", model="m", key_variable="SOME_KEY"))
    assert value is None or not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:80", "ftp://x", "http://u:p@x/v1", "http://x/v1?k=1"])
def test_a_url_that_is_none_or_carries_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="the backend's URL"):
        BackendSettings(url=url, model="m")
