"""An OpenAI-compatible endpoint that says the next piece only when it is told to."""

from __future__ import annotations

import asyncio
import contextlib

from tests.backends.endpoint import DONE, USAGE, event

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Paced:
    """asked: requests that have come; left: of them, those whose client has gone or is done;
    sent: bytes that clients have taken"""

    def __init__(self) -> None:
        self.asked = self.left = self.sent = 0
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    async def __aenter__(self) -> Paced:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def say(self, text: str) -> None:
        """To whoever asks next, or is waiting."""
        self._pieces.put_nowait(event({"content": text}))

    def end(self) -> None:
        self._pieces.put_nowait(event(finish_reason="stop") + USAGE + DONE)
        self._pieces.put_nowait(None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        gone = asyncio.ensure_future(reader.read())
        speaking = asyncio.ensure_future(self._speak(writer))
        with contextlib.suppress(ConnectionError):
            await asyncio.wait({gone, speaking}, return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, speaking):
            task.cancel()
        await asyncio.wait({gone, speaking})
        writer.close()
        self.left += 1

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        with contextlib.suppress(ConnectionError):
            while (piece := await self._pieces.get()) is not None:
                writer.write(piece.encode())
                await writer.drain()
                self.sent += len(piece)
