"""TLS to a Redis that has a certificate of an authority of our own, and asks for one or not."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest
from certificates import Authority
from servers import REDIS_7, Server
from writer import Writer

from state_store.errors import StoreRefused, StoreUnavailable
from state_store.objects import ObjectClient
from state_store.registry import Heartbeat
from state_store.store import StateStore

pytestmark = pytest.mark.skipif(REDIS_7 is None, reason="no server with TLS is installed")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def wanting(authority, tmp_path_factory):
    """A server that asks its clients for certificates, `wanting.plain` one that does not."""
    certificate, key = authority.issue("server")

    def server(wants):
        server = Server(
            tmp_path_factory.mktemp("server"),
            build=REDIS_7,
            options={
                "--port": "0",
                "--tls-cert-file": str(certificate),
                "--tls-key-file": str(key),
                "--tls-ca-cert-file": str(authority.certificate),
                "--tls-auth-clients": wants,
            },
        )
        server._more |= {"--tls-port": str(server.port)}
        return server

    with server("yes") as asking, server("no") as plain:
        asking.plain = plain
        yield asking


def url_of(server, **options):
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"rediss://127.0.0.1:{server.port}?{query}"


class SlowLink:
    """A port before a server's, which passes one connection on and takes its time for requests."""

    def __init__(self, server, *, rate):
        """rate: bytes a second"""
        self._rate = rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.port = self._listener.getsockname()[1]
        self._server = socket.create_connection(("127.0.0.1", server.port))
        self._threads = [threading.Thread(target=self._requests)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Call it when its client is gone."""
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _requests(self):
        client, _ = self._listener.accept()
        self._threads.append(threading.Thread(target=self._replies, args=(client,)))
        self._threads[1].start()
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 14):
                time.sleep(len(data) / self._rate)
                self._server.sendall(data)
        self._server.shutdown(socket.SHUT_RDWR)

    def _replies(self, client):
        with client, self._server, contextlib.suppress(OSError):
            while data := self._server.recv(1 << 14):
                client.sendall(data)


async def refusals(url, kind, *, timeout):
    """What both connections say."""
    with pytest.raises(kind) as control:
        await StateStore.connect(url, timeout=timeout)
    client = ObjectClient(url, timeout=timeout)
    with pytest.raises(kind) as bulk:
        client.ping()
    client.close()
    return str(control.value), str(bulk.value)


@pytest.mark.parametrize("asking", [False, True])
async def test_the_store_works_over_tls(wanting, authority, prefix, asking):
    certificate, key = authority.issue("client")
    own = {"ssl_certfile": certificate, "ssl_keyfile": key} if asking else {}
    url = url_of(wanting if asking else wanting.plain, ssl_ca_certs=authority.certificate, **own)
    client = ObjectClient(url, timeout=10.0, connections=2)
    async with await StateStore.connect(url, prefix=prefix) as store:
        writer = Writer(store, client, prefix)
        session = await writer.session(range(10), range(10, 21))
        fork = await store.fork(session.id)
        await writer.turn(fork.id, range(30))
        assert await writer.history(session.id) == list(range(21))
        beat = Heartbeat(url, "e", {"boot_id": "e"}, ttl=5.0, prefix=prefix)
        beat.start()
        while not await store.engines():
            pass
        beat.stop()
        assert await writer.problems() == []
    values = {f"{prefix}:{n}".encode(): os.urandom(3_000_000 + n) for n in range(4)}
    client.put([(key, memoryview(value)) for key, value in values.items()], ttl=60)
    into = {key: [memoryview(bytearray(1_000_000)) for _ in range(4)] for key in values}
    sizes = client.get_into(list(into.items()))
    assert sizes == [len(value) for value in values.values()]
    for key, value in values.items():
        assert b"".join(into[key])[: len(value)] == value
    client.close()


def test_a_large_value_over_a_slow_link_is_sent_as_long_as_it_moves(wanting, authority, prefix):
    """The time limit is for want of progress, not for all of the value."""
    value = os.urandom(12_000_000)
    with SlowLink(wanting.plain, rate=3_000_000) as link:
        client = ObjectClient(url_of(link, ssl_ca_certs=authority.certificate), timeout=2.0)
        client.put([(prefix.encode(), memoryview(value))], ttl=60)
        client.close()
    client = ObjectClient(url_of(wanting.plain, ssl_ca_certs=authority.certificate), timeout=10.0)
    into = memoryview(bytearray(len(value)))
    assert client.get_into([(prefix.encode(), into)]) == [len(value)]
    assert into == value
    client.close()


async def test_a_server_of_an_unknown_authority_is_refused_by_name(wanting, tmp_path):
    wrong = Authority(tmp_path / "theirs").certificate
    url = url_of(wanting.plain, ssl_ca_certs=wrong)
    for text in await refusals(url, StoreRefused, timeout=10.0):
        assert "not trusted here" in text
        assert "ssl_ca_certs" in text


async def test_a_client_without_a_certificate_that_is_trusted_is_not_let_in(
    wanting, authority, tmp_path
):
    certificate, key = Authority(tmp_path / "theirs").issue("client")
    for own in ({}, {"ssl_certfile": certificate, "ssl_keyfile": key}):
        url = url_of(wanting, ssl_ca_certs=authority.certificate, **own)
        await refusals(url, StoreUnavailable, timeout=10.0)  # the server only hangs up


async def test_without_tls_a_server_that_speaks_only_tls_does_not_answer(wanting):
    url = f"redis://127.0.0.1:{wanting.port}"
    await refusals(url, StoreUnavailable, timeout=2.0)
