"""The fetch tool reads what it may from real servers here, and nothing else."""

import gzip
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.state_store.certificates import Authority
from tools import addresses
from tools import fetch as fetching
from tools.errors import AddressRefused
from tools.fetch import FetchLimits, fetch_tool
from tools.html import page_text

BIG = b"0" * 50_000_000


class Handler(BaseHTTPRequestHandler):
    """Answers by path; what came is kept for the tests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        name, _, argument = self.path.removeprefix("/").partition("/")
        getattr(self, f"send_{name}", self.send_nothing)(argument)

    def answer(self, body, content_type="text/plain", status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_text(self, argument):
        self.answer("täxt".encode())

    def send_latin(self, argument):
        self.answer("täxt".encode("latin-1"), "text/plain; charset=ISO-8859-1")

    def send_codec(self, argument):
        self.answer(b"x-xn--", f"text/plain; charset={argument}")

    def send_page(self, argument):
        self.answer(b"<title>T</title><body><h1>Head</h1><p>Hello <a href='/x'>you</a></p>",
                    "text/html")  # fmt: skip

    def send_image(self, argument):
        self.answer(b"\x89PNG", "image/png")

    def send_nothing(self, argument):
        self.answer(b"not here", status=404)

    def send_to(self, argument):
        self.answer(b"", status=302, Location=argument.replace("|", "/"))

    def send_loop(self, argument):
        self.answer(b"", status=307, Location=f"/loop/{int(argument or 0) + 1}")

    def send_gzip(self, argument):
        self.answer(gzip.compress(b"packed"), Content_Encoding="gzip")

    def send_members(self, argument):
        """Of so many parts, the last one cut short, garbled, or followed by zeros."""
        members = [gzip.compress(part) for part in (b"first, ", b"", b"second")]
        bent = {
            "cut": members[-1][:-5],
            "lie": members[-1] + b"none",
            "zeros": members[-1] + bytes(9),
        }
        members[-1] = bent.get(argument, members[-1])
        self.answer(b"".join(members), Content_Encoding="gzip")

    def send_bombs(self, argument):
        self.answer(gzip.compress(b"0" * 999) * 20, Content_Encoding="gzip")

    def send_bomb(self, argument):
        self.answer(gzip.compress(BIG), Content_Encoding="gzip")

    def send_cut(self, argument):
        self.answer(gzip.compress(b"packed" * 100)[:20], Content_Encoding="gzip")

    def send_lie(self, argument):
        self.answer(b"no gzip", Content_Encoding="gzip")

    def send_zstd(self, argument):
        self.answer(zlib.compress(b"x"), Content_Encoding="zstd")

    def send_large(self, argument):
        self.answer(b"x" * 10_001)

    def send_full(self, argument):
        self.answer(b"x" * 10_000)

    def send_endless(self, argument):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(100_000):  # far more than may be read, and still an end
                self.wfile.write(b"4\r\nmore\r\n")
        except OSError:
            self.server.hung_up.set()

    def send_head(self, argument):
        """Lines of a head that never ends: one after the other, or slowly."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            for number in range(100_000):
                self.wfile.write(f"X-{number}: {'x' * 50}\r\n".encode())
                time.sleep(0.05 if argument == "slow" else 0)
        except OSError:
            self.server.hung_up.set()

    def send_slow(self, argument):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(400):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *arguments):
        """Not into the test's output."""


def serve(context=None, host="127.0.0.1"):
    kind = type("Server", (ThreadingHTTPServer,), {"address_family": socket.AF_INET6}) \
        if ":" in host else ThreadingHTTPServer  # fmt: skip
    server = kind((host, 0), Handler)
    server.daemon_threads = True
    server.seen, server.hung_up = [], threading.Event()
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return server


@pytest.fixture
def server():
    server = serve()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def limits(server):
    return FetchLimits(
        hosts=["127.0.0.1", "localhost", "*.example.org"],
        ports=[server.server_port],
        most_bytes=10_000,
        seconds=5.0,
        allow_private=["127.0.0.1"],
        resolver=names({"www.example.org": ["127.0.0.1"], "127.0.0.1": ["127.0.0.1"]}),
    )


def names(known):
    """A resolver that knows some names; for each, one list of addresses, or one for each call."""
    calls = {}

    async def resolve(host, port):
        calls[host] = calls.get(host, -1) + 1
        found = known[host]
        return found[min(calls[host], len(found) - 1)] if isinstance(found[0], list) else found

    return resolve


@pytest.fixture
def fetch(server, limits):
    async def fetch(path, host="www.example.org", **changed):
        tool = fetch_tool(replace(limits, **changed))
        url = path if "//" in path else f"http://{host}:{server.server_port}{path}"
        result = await tool.call({"url": url})
        return result.text, result.error

    return fetch


async def test_a_text_is_read_with_its_encoding(fetch):
    assert await fetch("/text") == ("täxt", False)
    assert await fetch("/latin") == ("täxt", False)


@pytest.mark.parametrize("codec", ["punycode", "unicode_escape", "zip", "nonsense"])
async def test_a_codec_that_is_no_text_encoding_is_not_used(fetch, codec):
    assert await fetch(f"/codec/{codec}") == ("x-xn--", False)


async def test_a_page_is_shown_as_text(fetch):
    assert await fetch("/page") == ("T\n\n# Head\n\nHello you (/x)", False)


async def test_others_are_served_while_a_page_is_read(fetch, monkeypatch):
    threads = []

    def noting(page: str) -> str:
        threads.append(threading.current_thread())
        return page_text(page)

    monkeypatch.setattr(fetching, "page_text", noting)
    await fetch("/page")
    assert threads != [threading.current_thread()]


async def test_the_server_sees_the_host_and_nothing_of_us(fetch, server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    await fetch("/text")
    ((path, headers),) = server.seen
    assert path == "/text"
    assert headers.pop("Host") == f"www.example.org:{server.server_port}"
    assert headers.pop("User-Agent") == "torpor"
    assert headers.pop("Accept-Encoding") == "gzip"
    assert {key.lower() for key in headers} <= {"accept", "connection"}


async def test_a_host_that_is_not_allowed_is_not_even_resolved(fetch):
    for host in ("evil.test", "example.org", "www.example.org.evil.test"):
        text, error = await fetch("/text", host=host)
        assert error
        assert text == f"{host} may not be fetched from, only: 127.0.0.1, localhost, *.example.org"


async def test_a_port_that_is_not_allowed_is_refused(fetch):
    text, error = await fetch("http://www.example.org:6379/")
    assert error
    assert text.startswith("port 6379 may not be connected to, only: ")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/", "gopher://x/", "//x/", "http://", "x", ""]
)
async def test_only_http_is_fetched(url, limits):
    result = await fetch_tool(limits).call({"url": url})
    assert result.error
    assert "URL" in result.text


async def test_credentials_are_not_sent(fetch, server):
    text, error = await fetch(f"http://user:secret@www.example.org:{server.server_port}/text")
    assert error
    assert "user name or password" in text
    assert server.seen == []


PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.1.1",  # our own
    "169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254",  # metadata services
    "100.64.0.1", "192.0.0.8", "198.18.0.1", "203.0.113.5", "224.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::",
    "2001:0:7f00:1:0:0:80ff:fffe", "::127.0.0.1", "::a00:1", "64:ff9b:1::a00:1", "100::1",
    "192.88.99.1", "240.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "3fff::1",
    "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_an_address_that_is_not_public_is_refused(address):
    with pytest.raises(AddressRefused, match="not on the public internet"):
        await addresses.checked("name", 80, resolver=names({"name": [address]}))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
async def test_a_public_address_is_taken(address):
    assert await addresses.checked("name", 80, resolver=names({"name": [address]})) == address


async def test_a_name_with_one_private_address_among_others_is_refused():
    resolver = names({"name": ["93.184.216.34", "10.0.0.1"]})
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        await addresses.checked("name", 80, resolver=resolver)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::1]"]
)
async def test_loopback_is_refused_however_it_is_written(server, host):
    limits = FetchLimits(hosts=["*"], ports=[server.server_port], seconds=5.0)
    result = await fetch_tool(limits).call({"url": f"http://{host}:{server.server_port}/text"})
    assert result.error
    assert server.seen == []
    assert "public internet" in result.text or "not a URL" in result.text


async def test_a_name_is_resolved_once_and_the_connection_goes_there(fetch, server):
    """DNS rebinding: the second answer would lead elsewhere."""
    rebinding = names({"www.example.org": [["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"]]})
    assert await fetch("/text", resolver=rebinding) == ("täxt", False)
    # A redirect to the same name asks again, and what it gets then is checked again.
    text, error = await fetch(
        "/to/|text", resolver=names({"www.example.org": [["127.0.0.1"], ["10.0.0.1"]]})
    )
    assert error
    assert "10.0.0.1" in text


async def test_a_redirect_is_followed_and_checked_like_any_url(fetch, server):
    assert await fetch("/to/|text") == ("täxt", False)
    port = server.server_port
    for target, reason in (
        ("http:||evil.test|", "may not be fetched from"),
        (f"http:||localhost:{port}|text", "not on the public internet"),
        ("http:||www.example.org:22|", "port 22"),
        ("file:|||etc|passwd", "not a URL that begins with"),
        ("http:||user:pw@www.example.org|", "password"),
    ):
        text, error = await fetch(
            f"/to/{target}",
            resolver=names({"www.example.org": ["127.0.0.1"], "localhost": ["127.0.0.9"]}),
        )
        assert error
        assert reason in text
    assert {path for path, _ in server.seen} == {"/text"} | {
        path for path, _ in server.seen if path.startswith("/to/")
    }


async def test_endless_redirects_end(fetch, server):
    text, error = await fetch("/loop")
    assert error
    assert text.startswith("more than 5 redirects; the last one leads to http://www.example.org")
    assert len(server.seen) == 6


async def test_what_is_not_text_is_refused(fetch):
    text, error = await fetch("/image")
    assert error
    assert text.endswith("is image/png, which is not text to read")


async def test_an_error_of_the_server_is_told(fetch):
    text, error = await fetch("/missing")
    assert error
    assert text.endswith("/missing answered 404: not here")


async def test_a_packed_body_is_unpacked(fetch):
    assert await fetch("/gzip") == ("packed", False)


async def test_all_members_of_a_packed_body_are_unpacked(fetch):
    for path in ("/members", "/members/zeros"):
        assert await fetch(path) == ("first, second", False)


async def test_a_body_over_the_limit_is_refused(fetch, server):
    text, _ = await fetch("/full")
    assert len(text) == 10_000
    for path in ("/large", "/bomb", "/bombs", "/endless"):
        text, error = await fetch(path)
        assert error, path
        assert text.endswith("is over 10,000 bytes, so it was not read")
    assert server.hung_up.wait(10)


async def test_a_bomb_is_never_unpacked_beyond_the_limit(fetch):
    """50 MB of zeros in 50 kB, nearly all of which a plain unpacker makes of the first piece."""
    await fetch("/bomb")
    tracemalloc.start()
    try:
        await fetch("/bomb")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


async def test_a_body_that_is_not_what_it_says_is_refused(fetch):
    for path, reason in (
        ("/cut", "was cut short"),
        ("/lie", "is not the gzip it says it is"),
        ("/members/cut", "was cut short"),
        ("/members/lie", "is not the gzip it says it is"),
        ("/zstd", "is packed as zstd, which was not asked for"),
    ):
        text, error = await fetch(path)
        assert error
        assert text.endswith((reason, f"{reason}; try again"))


async def test_a_slow_body_is_given_up(fetch, server):
    text, error = await fetch("/slow", seconds=0.5)
    assert error
    assert text.endswith("/slow took longer than 0.5 seconds")
    assert server.hung_up.wait(10)


@pytest.mark.parametrize("pace", ["slow", "fast"])
async def test_a_head_that_does_not_end_is_given_up(fetch, server, pace):
    text, error = await fetch(f"/head/{pace}", seconds=0.5 if pace == "slow" else 30.0)
    assert error
    assert ("took longer than 0.5 seconds" if pace == "slow" else "could not be fetched") in text
    assert server.hung_up.wait(10)


async def test_a_host_that_does_not_answer_is_told(fetch, server):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    text, error = await fetch(f"http://www.example.org:{port}/", ports=[port])
    assert error
    assert "could not be fetched" in text


async def test_certificates_are_checked_against_the_name_although_the_address_is_pinned(
    tmp_path, limits, monkeypatch
):
    authority = Authority(tmp_path / "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("www.example.org"))
    server = serve(context)
    try:
        limits = replace(
            limits,
            ports=[server.server_port],
            resolver=names({"www.example.org": ["127.0.0.1"], "other.example.org": ["127.0.0.1"]}),
        )
        fetch = fetch_tool(limits)
        url = f"https://www.example.org:{server.server_port}/text"
        result = await fetch.call({"url": url})
        assert "CERTIFICATE_VERIFY_FAILED" in result.text
        real = ssl.create_default_context
        monkeypatch.setattr(
            ssl, "create_default_context", lambda **_: real(cafile=authority.certificate)
        )
        assert (await fetch.call({"url": url})).text == "täxt"
        result = await fetch.call({"url": url.replace("www", "other")})
        assert "certificate is not valid for 'other.example.org'" in result.text
    finally:
        server.shutdown()
        server.server_close()


async def test_an_ipv6_address_is_fetched_from(limits):
    try:
        server = serve(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        known = names({"www.example.org": ["::1"]})
        limits = replace(limits, ports=[server.server_port], allow_private=["::1"], resolver=known)
        url = f"http://www.example.org:{server.server_port}/text"
        assert (await fetch_tool(limits).call({"url": url})).text == "täxt"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>one<p>two", "one\n\ntwo"),
        ("<ul><li>a<li>b <b>c</b></ul>", "- a\n\n- b c"),
        ("<pre>  if x:\n      y</pre>", "  if x:\n      y"),
        ("a<script>evil()</script><style>x</style>b<noscript>c</noscript>", "ab"),
        ("<table><tr><td>1<td>2<tr><td>3</table>", "| 1| 2\n\n| 3"),
        ("&lt;b&gt; &amp; &eacute;", "<b> & é"),
        ("<a href='#top'>up</a> <a href='javascript:x'>y</a>", "up y"),
        ("no tags", "no tags"),
        ("", ""),
        ("<!-- only -->", ""),
    ],
)
def test_pages_become_text(html, text):
    assert page_text(html) == text


def test_a_page_is_read_however_deep_it_is_nested_or_says_that_it_is_not():
    def nested(depth: int) -> str:
        return page_text(f"<h1>Title</h1>{'<div>' * depth}deep{'</div>' * depth}<p>after")

    assert nested(1000) == "# Title\n\ndeep\n\nafter"
    note = "[the page is nested too deep: what follows is left out]"
    assert nested(5000) == f"# Title\n\n{note}"
    assert page_text("<b>" * 5000) == note


@pytest.mark.parametrize(
    "piece", ["<a ", "<a", "<!--", "<![", "<div>", "<b><p>", "&#", "<table><td>"]
)
def test_pages_made_to_be_slow_are_not(piece):
    started = time.monotonic()
    page_text(piece * 20_000)
    assert time.monotonic() - started < 20  # seconds to minutes with the standard library's parser
