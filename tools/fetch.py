"""The tool that reads a page or a file from the web."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatch

import httpx

from tools.addresses import Resolve, checked, resolve
from tools.define import Tool, define
from tools.effects import Effect
from tools.errors import AddressRefused, ToolFailed
from tools.html import page_text

_REDIRECTS = (301, 302, 303, 307, 308)
_TEXT = ("text/*", "application/json", "application/*+json", "application/xml", "application/*+xml",
         "application/javascript", "application/x-ndjson", "application/yaml")  # fmt: skip
_CHARSETS = re.compile(
    r"utf-?8|utf-?16(le|be)?|us-ascii|ascii|latin-?1|iso-8859-\d+|windows-125\d|koi8-[ru]|"
    r"shift_jis|euc-(jp|kr)|gbk|gb2312|gb18030|big5",
    re.IGNORECASE,
)
_HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class FetchLimits:
    """hosts:         that may be reached, such as `docs.python.org` or `*.example.org`; `*` for all
    ports:         that may be connected to
    most_bytes:    of a body, after it was unpacked
    most_redirects: each of them is checked like a URL of the model's
    seconds:       for one fetch with all its redirects
    content_types: what may come back, `*` for any part
    allow_private: addresses that may be reached although they are not public, such as 127.0.0.1
    resolver:      how host names become addresses
    """

    hosts: Collection[str]
    ports: Collection[int] = (80, 443)
    most_bytes: int = 2 * 2**20
    most_redirects: int = 5
    seconds: float = 20.0
    content_types: Collection[str] = _TEXT
    allow_private: Collection[str] = ()
    resolver: Resolve = field(default=resolve)


def fetch_tool(limits: FetchLimits) -> Tool:
    """`fetch`, for the hosts that `limits` names.

    Only GET is made, without cookies, credentials or proxies. The address of a host is found and
    checked once, and the connection goes to that address.
    """

    async def fetch(url: str) -> str:
        """Reads a page or a text file from the web.

        Args:
            url: For example https://docs.python.org/3/
        """
        try:
            async with asyncio.timeout(limits.seconds):
                return await _fetched(url, limits)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ToolFailed(f"{url} took longer than {limits.seconds:g} seconds") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ToolFailed(f"{url} could not be fetched: {error}") from error

    return define(
        fetch,
        effect=Effect.PURE,
        timeout=limits.seconds + 5.0,
        rest="Fetch a page that says less, or only a part of it.",
    )


async def _fetched(text: str, limits: FetchLimits) -> str:
    # Its own client each time: nothing is kept from one fetch to the next, connections neither.
    async with httpx.AsyncClient(trust_env=False, timeout=limits.seconds) as client:
        for _ in range(limits.most_redirects + 1):
            url, host, port = _allowed(text, limits)
            address = await checked(
                host, port, resolver=limits.resolver, allow_private=limits.allow_private
            )
            response = await client.send(_aimed(client, url, address), stream=True)
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    return await _shown(text, response, limits)
                text = str(url.join(location))
            finally:
                await response.aclose()
    raise ToolFailed(f"more than {limits.most_redirects} redirects; the last one leads to {text}")


def _aimed(client: httpx.AsyncClient, url: httpx.URL, address: str) -> httpx.Request:
    """A request that goes to `address`, and is for the host of `url` to the server and to TLS."""
    return client.build_request(
        "GET",
        url.copy_with(host=address),
        headers={
            "Host": url.netloc.decode("ascii"),
            "Accept-Encoding": "gzip",
            "User-Agent": "torpor",
        },
        extensions={"sni_hostname": url.raw_host.decode("ascii")},
    )


def _allowed(text: str, limits: FetchLimits) -> tuple[httpx.URL, str, int]:
    """The URL, its host and its port. Raises ToolFailed if a model may not have it."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ToolFailed(f"{text} is not a URL: {error}") from error
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    if url.scheme not in ("http", "https") or not host:
        raise ToolFailed(f"{text} is not a URL that begins with http:// or https://")
    if url.userinfo:
        raise ToolFailed("a URL with a user name or password is not fetched; leave them out")
    if not any(fnmatch(host, pattern) for pattern in limits.hosts):
        raise AddressRefused(f"{host} may not be fetched from, only: {', '.join(limits.hosts)}")
    port = url.port or (443 if url.scheme == "https" else 80)
    if port not in limits.ports:
        ports = ", ".join(map(str, limits.ports))
        raise AddressRefused(f"port {port} may not be connected to, only: {ports}")
    return url, host, port


async def _shown(url: str, response: httpx.Response, limits: FetchLimits) -> str:
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if not any(fnmatch(kind, pattern) for pattern in limits.content_types):
        raise ToolFailed(f"{url} is {kind or 'of no stated type'}, which is not text to read")
    text = _decoded(await _body(url, response, limits.most_bytes), response)
    if response.is_error:
        raise ToolFailed(f"{url} answered {response.status_code}: {text[:500]}")
    if kind not in _HTML:
        return text
    return await asyncio.to_thread(page_text, text)  # others wait for the loop


async def _body(url: str, response: httpx.Response, most: int) -> bytes:
    """The body, unpacked by us: httpx would unpack a whole piece before we could count."""
    too_large = ToolFailed(f"{url} is over {most:,} bytes, so it was not read")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "identity"):
        raise ToolFailed(f"{url} is packed as {encoding}, which was not asked for")
    stated = response.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most:
        raise too_large
    packed = _Gzip() if encoding == "gzip" else None
    body = bytearray()
    async for piece in response.aiter_raw():
        room = most + 1 - len(body)
        try:
            body += piece[:room] if packed is None else packed.unpack(piece, room)
        except zlib.error as error:
            raise ToolFailed(f"{url} is not the gzip it says it is") from error
        if len(body) > most:
            raise too_large
    if packed is not None and not packed.is_whole:
        raise ToolFailed(f"{url} was cut short; try again")
    return bytes(body)


class _Gzip:
    """One or several members, one after another (RFC 1952). Zeros that fill up the end are none."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self.is_whole = False

    def unpack(self, piece: bytes, most: int) -> bytes:
        """At most so many bytes. Raises zlib.error."""
        unpacked = bytearray()
        while piece and len(unpacked) < most:
            if self._member.eof:
                piece = piece.lstrip(b"\0")
                if not piece:
                    break
                self._member = zlib.decompressobj(wbits=31)
            unpacked += self._member.decompress(piece, most - len(unpacked))
            self.is_whole = self._member.eof
            piece = self._member.unused_data
        return bytes(unpacked)


def _decoded(body: bytes, response: httpx.Response) -> str:
    charset = response.charset_encoding or "utf-8"
    # A server names the codec, and Python has some that are slow or no text at all.
    return body.decode(charset if _CHARSETS.fullmatch(charset) else "utf-8", errors="replace")
