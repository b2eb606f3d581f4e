"""Where an engine says that it is reached, and the names and ports that it may not have."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from engine.addresses import local_url, reached_at, require_free_id
from engine.errors import EngineStartFailed
from engine.launch import require_free_port
from state_store.embedded import EmbeddedServer
from state_store.registry import Heartbeat

STORE = "redis://127.0.0.1:6379"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("10.0.0.1", "http://10.0.0.1:30000"),
        ("engine", "http://engine:30000"),
        ("::1", "http://[::1]:30000"),
        ("fd00::2", "http://[fd00::2]:30000"),
    ],
)
def test_an_engine_is_reached_at_its_host(host, url):
    assert reached_at(host, 30000, STORE) == url


@pytest.mark.parametrize(
    ("host", "store", "url"),
    [
        ("0.0.0.0", STORE, "http://127.0.0.1:1"),
        ("0.0.0.0", "redis+sentinel://localhost:26379/main", "http://127.0.0.1:1"),
        ("::", "redis://[::1]:6379", "http://[::1]:1"),
        ("0.0.0.0", "unix:///a.sock", "http://127.0.0.1:1"),
        ("::", "unix:///a.sock", "http://[::1]:1"),
    ],
)
def test_on_all_addresses_it_is_reached_at_the_one_towards_the_store(host, store, url):
    assert reached_at(host, 1, store) == url


def test_an_engine_without_an_address_towards_the_store_asks_for_one():
    with pytest.raises(EngineStartFailed, match="--advertise URL"):
        reached_at("0.0.0.0", 1, "redis://store.invalid:6379")


def test_this_machine_reaches_what_listens_on_all_addresses():
    assert local_url("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert local_url("::", 1) == "http://[::1]:1"
    assert local_url("10.0.0.1", 1) == "http://10.0.0.1:1"


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_port_is_refused_only_if_it_is_in_use(family, host):
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(EngineStartFailed, match="in use"):
            require_free_port(host, port)
    require_free_port(host, port)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("names")) as server:
        yield server.url


@pytest.fixture
def registered(store):
    """Registers an engine of a URL, and none afterwards."""
    beats = []

    def register(url):
        record = {"engine_id": "e", "boot_id": "b", "url": url}
        beats.append(Heartbeat(store, "e", record, ttl=60, prefix="torpor"))
        beats[-1].start()

    yield register
    for beat in beats:
        beat.stop()


def test_the_name_of_an_engine_that_answers_is_refused_before_anything_starts(store, registered):
    require_free_id("e", "http://127.0.0.1:1", store, prefix="torpor")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request).start()
        url = f"http://127.0.0.1:{server.server_port}"
        registered(url)
        require_free_id("other", "http://127.0.0.1:1", store, prefix="torpor")
        require_free_id("e", url, store, prefix="torpor")  # whose port is free: it is gone
        with pytest.raises(EngineStartFailed, match=f"lives at {url} is registered as e"):
            require_free_id("e", "http://127.0.0.1:1", store, prefix="torpor")


def test_the_name_of_an_engine_that_is_gone_is_not_refused(store, registered):
    registered("http://127.0.0.1:1")
    require_free_id("e", "http://127.0.0.1:2", store, prefix="torpor")


def test_an_engine_is_not_started_without_its_store(tmp_path):
    with pytest.raises(EngineStartFailed, match="does not answer"):
        require_free_id("e", "http://127.0.0.1:1", f"unix://{tmp_path}/no.sock", prefix="torpor")
