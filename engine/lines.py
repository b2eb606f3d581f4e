"""The lines of a streamed answer, as server-sent events have them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


async def lines_of(response: httpx.Response) -> AsyncIterator[str]:
    r"""Lines without their ends, which are \n, \r\n and \r. What else Unicode ends lines with, as
    U+2028, is a part of them: httpx would split there, in the middle of a JSON text."""
    held: list[bytes] = []
    async for chunk in response.aiter_bytes():
        held.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            continue
        lines = b"".join(held).splitlines(keepends=True)
        # One that is not ended, or with half of an \r\n.
        held = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        for line in lines:
            yield _text(line)
    if last := b"".join(held):
        yield _text(last)


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode(errors="replace")
