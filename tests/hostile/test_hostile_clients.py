"""What clients do that mean harm, or die: the service refuses by name, and keeps nothing of it."""

import asyncio
import inspect
import json
import re
import socket
import struct
from dataclasses import dataclass

import httpx
import psutil
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from agent_runtime.sdk import Torpor
from agent_runtime.service.connections import Connection, connections
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings
from tests.engine_cpu.server import MODEL
from tests.hostile.paced import Paced
from tests.runtime.served import listening

PATIENCE = 30  # seconds until something that must come about has
SAID = {"messages": [{"role": "user", "content": "What is 48 * 17?"}]}
MIB = 1 << 20


@dataclass(frozen=True)
class Service:
    url: str
    torpor: Torpor
    http: httpx.AsyncClient


@pytest.fixture
async def endpoint():
    async with Paced() as endpoint:
        yield endpoint


@pytest.fixture
async def service(bare_store, endpoint):
    """In this process, so that its tasks and files can be counted."""
    settings = RuntimeSettings(
        redis_url=bare_store.url,
        model_dir=MODEL,
        backend=BackendSettings(url=endpoint.url, model="scripted"),
    )
    async with (
        listening(settings) as url,
        Torpor(url) as torpor,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as http,
    ):
        yield Service(url, torpor, http)


@pytest.fixture
async def session(service):
    return await service.torpor.create(stateless=True)


async def until(condition):
    """Polls: how long it takes decides nothing."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)


async def connected(service):
    host, port = service.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


def post(path, body, headers=b""):
    """The bytes of a request."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(sent)}\r\n"
    ).encode() + headers + b"\r\n" + sent  # fmt: skip


def reset(writer):
    """Hang up without a word, as a machine does that loses its power and comes back."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def leave_before_a_word(service, endpoint, turns):
    _, writer = await connected(service)
    writer.close()


async def leave_in_the_head(service, endpoint, turns):
    _, writer = await connected(service)
    writer.write(post(turns, SAID)[:30])
    await writer.drain()
    reset(writer)


async def leave_in_the_body(service, endpoint, turns):
    _, writer = await connected(service)
    writer.write(post(turns, SAID)[:-10])
    await writer.drain()
    reset(writer)


async def leave_before_the_first_token(service, endpoint, turns):
    before = endpoint.asked
    _, writer = await connected(service)
    writer.write(post(turns, SAID))
    await until(lambda: endpoint.asked > before)
    reset(writer)
    await until(lambda: endpoint.left == endpoint.asked)  # the turn was ended, not left to run


async def leave_in_the_answer(service, endpoint, turns):
    reader, writer = await connected(service)
    writer.write(post(turns, SAID))
    endpoint.say("81")
    await reader.readuntil(b"event: text")
    reset(writer)
    await until(lambda: endpoint.left == endpoint.asked)


async def leave_a_half_open_connection(service, endpoint, turns):
    """The client will not say more, and still listens."""
    reader, writer = await connected(service)
    writer.write(post(turns, SAID)[:-10])
    writer.write_eof()
    await reader.read()
    writer.close()


STAGES = [
    leave_before_a_word,
    leave_in_the_head,
    leave_in_the_body,
    leave_before_the_first_token,
    leave_in_the_answer,
    leave_a_half_open_connection,
]


@pytest.mark.parametrize("leave", STAGES, ids=lambda stage: stage.__name__)
async def test_a_client_that_goes_leaves_nothing_behind(service, endpoint, session, leave):
    turns = f"/v1/sessions/{session.id}/turns"

    async def in_use():
        await service.http.get("/health")
        return psutil.Process().num_fds(), len(asyncio.all_tasks())

    async def visit():
        """Twelve clients in turn; between them, the session is free again at once."""
        for _ in range(12):
            await leave(service, endpoint, turns)
            await until(is_free)

    async def is_free():
        answer = await service.http.post(f"/v1/sessions/{session.id}/suspend", json={})
        return answer.status_code != 409

    await visit()
    files, tasks = await in_use()
    await visit()

    async def are_no_more():
        now = await in_use()
        return now[0] <= files and now[1] <= tasks

    await until(are_no_more)
    assert (await service.torpor.get(session.id)).head is None  # nothing of it was committed
    endpoint.say("816.")
    endpoint.end()
    assert (await service.torpor.turn(session.id, "And now?")).text == "816."


async def test_who_does_not_read_stops_its_own_answer_and_nobody_elses(service, endpoint, session):
    other = await service.torpor.create(stateless=True)
    host, port = service.url.removeprefix("http://").split(":")
    slow = socket.create_connection((host, int(port)))
    slow.sendall(post(f"/v1/sessions/{session.id}/turns", SAID))
    for _ in range(64):
        endpoint.say("x" * MIB)
    await until(lambda: endpoint.sent > 0)

    async def is_stalled():
        sent = endpoint.sent
        for _ in range(5):
            assert (await service.http.get(f"/v1/sessions/{other.id}")).status_code == 200
            await asyncio.sleep(0.2)
        return endpoint.sent == sent

    await until(is_stalled)
    # The endpoint is not read from either: what is held is what fits the sockets' buffers.
    assert endpoint.sent < 48 * MIB
    slow.close()
    await until(lambda: endpoint.left == endpoint.asked)


async def test_who_does_not_read_at_all_is_hung_up_on_and_its_session_is_free(
    service, endpoint, session, monkeypatch
):
    monkeypatch.setattr(Connection, "unread_seconds", 0.3)
    host, port = service.url.removeprefix("http://").split(":")
    deaf = socket.create_connection((host, int(port)))
    deaf.sendall(post(f"/v1/sessions/{session.id}/turns", SAID))
    for _ in range(64):
        endpoint.say("x" * MIB)
    await until(lambda: endpoint.asked and endpoint.left == endpoint.asked)

    async def is_free():
        return (await service.torpor.get(session.id)).turn is None

    await until(is_free)
    deaf.close()


class Buffer:
    """A transport from which nobody reads, or somebody does."""

    def __init__(self, size):
        self.size = size
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self):
        return self.size

    def abort(self):
        self.aborted.set()


async def test_who_reads_slowly_is_waited_for():
    slow = connections(unread_seconds=0.01)(uvicorn.Config(None), ServerState(), {})
    slow.transport = buffer = Buffer(1000)
    slow.flow = FlowControl(buffer)
    looked = asyncio.Event()

    def reads_on():
        buffer.size -= 1
        if buffer.size == 990:
            looked.set()
        return buffer.size

    buffer.get_write_buffer_size = reads_on
    slow.pause_writing()
    await asyncio.wait_for(looked.wait(), PATIENCE)
    assert not buffer.aborted.is_set()
    buffer.get_write_buffer_size = lambda: 1000
    await asyncio.wait_for(buffer.aborted.wait(), PATIENCE)


async def test_many_posts_of_one_turn_at_once_are_one_turn(service, endpoint, session):
    endpoint.say("816.")
    endpoint.end()
    key = {"Idempotency-Key": "the same"}
    turns = f"/v1/sessions/{session.id}/turns"
    answers = await asyncio.gather(
        *(service.http.post(turns, json=SAID, headers=key) for _ in range(16))
    )
    codes = {answer.status_code for answer in answers}
    assert 200 in codes
    assert codes <= {200, 409}
    assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"still_running"}
    assert endpoint.asked == 1
    assert len(await service.torpor.snapshots(session.id)) == 1


async def test_many_posts_without_a_key_are_answered_or_refused_whole(service, endpoint, session):
    for _ in range(16):
        endpoint.say("816.")
        endpoint.end()
    turns = f"/v1/sessions/{session.id}/turns"
    answers = await asyncio.gather(*(service.http.post(turns, json=SAID) for _ in range(16)))
    done = [answer for answer in answers if answer.status_code == 200]
    assert {a.json()["code"] for a in answers if a not in done} <= {"lease_held"}
    assert len(await service.torpor.snapshots(session.id)) == len(done) >= 1


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", [b"421"]),  # no Host, and no keys
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n\x00\x01 garbage\r\n\r\n",
         [b"200", b"400"]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, [b"400"]),
        (b"GET /health HTTP/1.1\r\n\r\n", [b"400"]),  # no Host
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000, [b"400"]),
        (b"GET /" + b"a" * 200_000, [b"400"]),
        (b"BREW /v1/sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", [b"405"]),
        (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", [b"400"]),
        (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n"
         b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n", [b"400"]),
        (b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
         b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", [b"400"]),
    ],
    ids=[
        "HTTP/1.0", "pipelined garbage", "TLS", "no host", "header flood", "endless path",
        "wrong method", "negative length", "two lengths", "chunks that are none",
    ],
)  # fmt: skip
async def test_what_is_no_request_is_refused_and_hung_up_on(service, sent, answers):
    reader, writer = await connected(service)
    writer.write(sent)
    received, cut_off = b"", False
    async with asyncio.timeout(PATIENCE):
        try:
            while piece := await reader.read(MIB):
                received += piece
        except ConnectionResetError:
            cut_off = True  # in the middle of a flood, where the answer may be lost
    writer.close()
    assert re.findall(rb"HTTP/1\.1 (\d{3})", received) == answers or (
        cut_off and len(sent) > MIB // 16
    )
    assert (await service.http.get("/health")).status_code == 200


async def test_a_connection_that_says_nothing_or_never_ends_its_head_is_hung_up_on(
    service, monkeypatch
):
    monkeypatch.setattr(Connection, "head_seconds", 0.2)
    silent, halting, second = [await connected(service) for _ in range(3)]
    halting[1].write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    second[1].write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await second[0].readuntil(b"}")
    second[1].write(b"GET /health")
    for reader, writer in (silent, halting, second):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


HUGE = b"1" * 5000
NO_VALUES = [
    b'{"system": "\\ud800"}',
    b'{"labels": {"\\uDFFF": "x"}}',
    b'{"sampling": {"temperature": NaN}}',
    b'{"sampling": {"temperature": -Infinity}}',
    b'{"sampling": {"temperature": 1e999}}',
    b'{"sampling": {"seed": 99999999999999999999}}',
    b'{"sampling": {"seed": -9223372036854775809}}',
    b'{"sampling": {"seed": ' + HUGE + b"}}",
]


@pytest.mark.parametrize("body", NO_VALUES, ids=lambda body: body[:44].decode())
async def test_values_that_nothing_can_hold_are_refused_at_the_edge(service, body):
    answer = await service.http.post(
        "/v1/sessions", content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")


@pytest.mark.parametrize(
    "text",
    ["\U0001f600", "\\ud800 is a surrogate", "NaN and Infinity", "1" * 40, "1e999", "a\0b"],
)
async def test_texts_that_only_look_like_such_values_are_kept(service, text):
    body = json.dumps({"stateless": True, "system": text})  # escapes what is not ASCII
    answer = await service.http.post(
        "/v1/sessions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 201
