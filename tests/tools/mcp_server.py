"""An MCP server for tests, made with the official SDK: `stdio`, or `http PORT TOKEN`.

Over HTTP its streams can be resumed; with MIXED set, all of them are then repeated on each.
"""

import os
import sys

import anyio
import uvicorn
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.types import ToolAnnotations
from starlette.responses import PlainTextResponse


class Events(EventStore):
    """What was said on each stream."""

    def __init__(self):
        self._said = []

    async def store_event(self, stream_id, message):
        self._said.append((stream_id, message))
        return str(len(self._said))

    async def replay_events_after(self, last_event_id, send_callback):
        stream = self._said[int(last_event_id) - 1][0]
        for number, (of, message) in list(enumerate(self._said, 1))[int(last_event_id) :]:
            if message is not None and (of == stream or "MIXED" in os.environ):
                await send_callback(EventMessage(message, str(number)))
        return stream


server = FastMCP(
    "test server",
    log_level="ERROR",
    port=int(sys.argv[2]) if sys.argv[1] == "http" else 8000,
    event_store=Events(),
    retry_interval=200,  # milliseconds
)


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def add(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
async def count(file: str, seconds: float) -> str:
    """Counts in a file, then takes its time; notes there that it was cancelled."""
    async with await anyio.open_file(file, "a") as counter:
        await counter.write("x")
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        with open(file, "a") as counter:  # noqa: ASYNC230, PTH123
            counter.write(" cancelled")
        raise
    return "counted"


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
async def look(file: str, seconds: float) -> str:
    """Does the same and says that it only reads; it takes its time when it is called first."""
    return await count(file, 0 if os.path.exists(file) else seconds)  # noqa: ASYNC240, PTH110


@server.tool()
async def steps(context: Context) -> str:
    """Reports how far it has come."""
    for number in range(3):
        await context.report_progress(number + 1, 3, f"step {number + 1}")
    return "all"


@server.tool()
def long() -> str:
    """Says a lot."""
    return "word " * 20_000


@server.tool()
def picture(size: int) -> Image:
    """Gives a picture."""
    return Image(data=b"P" * size, format="png")


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no such thing")


@server.tool(name="a.tool with/odd" + "x" * 80)
def odd() -> str:
    """Has an odd name."""
    return f"{os.environ.get('SECRET')} {os.environ.get('OTHER')}"


@server.tool()
async def learn(context: Context) -> str:
    """Makes one more tool."""
    server.add_tool(lambda: "new", name="learned", description="New.")
    await context.session.send_tool_list_changed()
    return "learned"


@server.resource("notes://today", description="Notes of today.", mime_type="text/plain")
def today() -> str:
    return "today's notes"


@server.resource("bytes://four", mime_type="application/octet-stream")
def four() -> bytes:
    return b"\0\1\2\3"


@server.prompt()
def review(code: str, tone: str = "kind") -> str:
    """Asks for a review."""
    return f"Review in a {tone} tone: {code}"


def http(port: int, token: str) -> None:
    app = server.streamable_http_app()

    async def guarded(scope, receive, send):
        headers = dict(scope.get("headers", []))
        if scope["type"] == "http" and headers.get(b"authorization") != f"Bearer {token}".encode():
            await PlainTextResponse("who are you?", status_code=401)(scope, receive, send)
            return
        await app(scope, receive, send)

    uvicorn.run(guarded, host="127.0.0.1", port=port, log_level="error")


if sys.argv[1] == "stdio":
    server.run()
else:
    http(int(sys.argv[2]), sys.argv[3])
