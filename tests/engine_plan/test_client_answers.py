"""What an engine, or a proxy before it, may answer: the client raises the engine's errors only."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.client import EngineClient, Sampling
from engine.errors import EngineRefused, EngineUnreachable

WHOLE = {"output_ids": [7], "meta_info": {"cached_tokens": 0, "finish_reason": {"type": "stop"}}}


@pytest.fixture(scope="module")
def engine():
    """A server that answers every prompt with `engine.body`."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.body)))
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def asked(engine, body):
    engine.body = body.encode()
    client = EngineClient(f"http://127.0.0.1:{engine.server_port}")
    try:
        return [chunk async for chunk in client.generate([1, 2], Sampling(), salt="s")]
    finally:
        await client.close()


def event(**fields):
    return f"data: {json.dumps(fields)}\n\n"


async def test_an_answer_is_read(engine):
    (chunk,) = await asked(engine, f"data: {json.dumps(WHOLE)}\n\ndata: [DONE]\n\n")
    assert (chunk.new_ids, chunk.finish_reason) == ((7,), "stop")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('data: {"output_ids": [1, 2\n\n', r"an event .* cannot be read: data: {\"output_ids"),
        ("data: null\n\n", "cannot be read"),
        (event(output_ids=[1]), "cannot be read"),
        (event(**{**WHOLE, "output_ids": None}), "cannot be read"),
        (event(output_ids=[1], meta_info=[]), "cannot be read"),
        ("data: " + "[" * 100_000 + "\n\n", "cannot be read"),
        ("<html>log in</html>\n", "ended its answer in the middle"),
        ("", "ended its answer in the middle"),
    ],
)
async def test_what_is_no_answer_is_an_engine_that_broke_off(engine, body, why):
    with pytest.raises(EngineUnreachable, match=why):
        await asked(engine, body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (event(error="out of luck"), "status 500: .*out of luck"),
        (event(error={"message": "too long", "code": 400}), "status 400: .*too long"),
        (event(error={"message": "no", "code": "odd"}), "status 500: .*no"),
        (
            event(output_ids=[], meta_info={"finish_reason": {"type": "abort", "message": None}}),
            "status 500: it gives no reason",
        ),
    ],
)
async def test_what_it_says_of_a_failure_is_told(engine, body, why):
    with pytest.raises(EngineRefused, match=why):
        await asked(engine, body)
