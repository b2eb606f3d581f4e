"""The embedded server: one process per directory, no port, and its data stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import redis

from state_store.embedded import EmbeddedServer
from state_store.errors import EmbeddedServerFailed, StoreUnavailable
from state_store.store import StateStore


def set_and_get(server, value=None):
    with redis.Redis.from_url(server.url) as client:
        if value is not None:
            client.set("k", value)
        return client.get("k")


def test_it_opens_a_unix_socket_for_its_owner_and_no_port(own_server):
    assert set_and_get(own_server, b"v") == b"v"
    process = psutil.Process(own_server.pid)
    assert process.net_connections(kind="inet") == []
    listening = [c.laddr for c in process.net_connections(kind="unix") if c.laddr]
    assert own_server.url.removeprefix("unix://") in listening
    assert Path(own_server.url.removeprefix("unix://")).stat().st_mode & 0o077 == 0


def test_a_second_server_on_the_same_directory_is_refused_and_told_who_holds_it(own_server):
    told = f"in use.*process {own_server.pid}.*--redis {own_server.url},"
    with pytest.raises(EmbeddedServerFailed, match=told):
        EmbeddedServer(own_server.data_dir).start()
    with pytest.raises(EmbeddedServerFailed, match="in use"):
        own_server.start()
    assert set_and_get(own_server, b"v") == b"v"


def test_a_restart_keeps_the_data_and_the_url(own_server):
    url = own_server.url
    set_and_get(own_server, b"v")
    own_server.stop()
    own_server.start()
    assert own_server.url == url
    assert set_and_get(own_server) == b"v"


def test_a_path_too_long_for_a_socket_works_and_keeps_its_url(tmp_path):
    directory = tmp_path / ("long" * 20) / ("path" * 20)
    server = EmbeddedServer(directory)
    for stop in (server.kill, server.stop):
        server.start()
        url = server.url
        assert len(url) < 108
        set_and_get(server, b"v")
        stop()
        assert not Path(url.removeprefix("unix://")).parent.exists()
    with EmbeddedServer(directory) as again:
        assert set_and_get(again) == b"v"
    server.start()
    assert server.url == url
    assert set_and_get(server) == b"v"
    server.stop()


def test_it_can_be_stopped_by_its_pid_and_the_directory_is_free_again(tmp_path):
    server = EmbeddedServer(tmp_path / "own")
    server.start()
    set_and_get(server, b"v")
    os.kill(server.pid, signal.SIGTERM)
    server.process.wait(timeout=10)
    with EmbeddedServer(tmp_path / "own") as again:
        assert set_and_get(again) == b"v"
    server.stop()


def test_a_stopped_server_leaves_no_process_and_no_socket(tmp_path):
    server = EmbeddedServer(tmp_path / "own")
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert not psutil.pid_exists(pid)
    assert not (tmp_path / "own" / "valkey.sock").exists()


STARTER = """
import sys, time, pathlib
from state_store.embedded import EmbeddedServer
server = EmbeddedServer(pathlib.Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A server that another process has started over `tmp_path / "own"`: that process, its pid."""
    command = [sys.executable, "-c", STARTER, str(tmp_path / "own")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        yield starter, int(starter.stdout.readline())
        starter.kill()


def test_a_directory_that_is_in_use_names_who_to_stop(tmp_path, elsewhere):
    starter, pid = elsewhere
    with pytest.raises(EmbeddedServerFailed, match=f"process {pid}, of process {starter.pid}"):
        EmbeddedServer(tmp_path / "own").start()


def test_a_server_ends_with_who_started_it_and_its_directory_is_free(tmp_path, elsewhere):
    starter, _ = elsewhere
    server = EmbeddedServer(tmp_path / "own")
    with redis.Redis(unix_socket_path=str(tmp_path / "own" / "valkey.sock")) as client:
        client.set("k", b"v")
    starter.kill()
    starter.wait()
    with server:  # it waits for the end of the other, which has just begun
        assert set_and_get(server) == b"v"


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_server_left_behind_is_waited_for(own_server):
    """A child of it that writes the log anew has the directory's lock as well."""
    set_and_get(own_server, b"v")
    own_server.kill()
    command = [sys.executable, "-c", HOLD, str(own_server.data_dir / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        starting = threading.Thread(target=own_server.start)
        starting.start()
        starting.join(0.3)
        assert starting.is_alive()
        child.communicate(b"")
    starting.join(60)
    assert not starting.is_alive()
    set_and_get(own_server, b"again")


def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for unusable in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EmbeddedServerFailed, match="cannot be used"):
            EmbeddedServer(unusable).start()
    (tmp_path / "own" / "valkey.sock").mkdir(parents=True)
    with pytest.raises(EmbeddedServerFailed, match="cannot be used"):
        EmbeddedServer(tmp_path / "own").start()


def test_a_server_that_does_not_come_up_says_what_its_log_says(tmp_path):
    server = EmbeddedServer(tmp_path / "own")
    log = tmp_path / "own" / "appendonlydir"
    log.mkdir(parents=True)
    (log / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(EmbeddedServerFailed, match=r"did not come up: .*manifest"):
        server.start()
    assert server.process.poll() is not None
    (log / "appendonly.aof.manifest").unlink()
    with server:
        assert set_and_get(server, b"v") == b"v"


async def test_a_store_on_a_stopped_server_is_unavailable_until_it_is_back(own_server):
    async with await StateStore.connect(own_server.url) as store:
        own_server.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.sessions("default")
        own_server.start()
        assert await store.sessions("default") == []
