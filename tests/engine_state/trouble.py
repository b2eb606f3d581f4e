"""A proxy in front of the store that is slow, gone, cut off, or damages what comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BULK = 4096  # bytes at once; less is a reply to a command, not a payload
_DAMAGE = 256  # bytes: enough to be seen in what the model says, if it got there


@dataclass
class Cut:
    """The end of a connection in the middle of a payload.

    after: bytes of payloads that still pass, over all connections
    then:  what is done besides, while the rest of the payload is on its way
    """

    after: int
    then: Callable[[], None] | None = None


class TroubledStore:
    """flowing:  replies are forwarded while it is set
    damaging: the number of payload pieces, from now on, in which some bytes are inverted
    damaged:  how many were
    reads:    cuts of payloads on their way to a client, next first
    writes:   cuts of payloads on their way to the store, next first
    """

    def __init__(self, path: Path, upstream_url: str) -> None:
        self.url = f"unix://{path}"
        self.flowing = threading.Event()
        self.flowing.set()
        self.damaging = self.damaged = 0
        self.reads: list[Cut] = []
        self.writes: list[Cut] = []
        self._gone = False
        self._upstream = upstream_url.removeprefix("unix://")
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.flowing.set()
        self.go()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def leave_alone(self) -> None:
        """No more cuts and damage; what has begun is over."""
        with self._lock:
            self.reads.clear()
            self.writes.clear()
            self.damaging = 0

    def cut(self) -> None:
        """Hang up on everybody, once."""
        with self._lock:
            open_now = list(self._open)
        for connection in open_now:
            _hang_up(connection)

    def go(self) -> None:
        """Be gone: nobody is connected, nobody can connect."""
        self._gone = True
        self.cut()

    def come_back(self) -> None:
        self._gone = False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            if self._gone:
                return
            server.connect(self._upstream)
            with self._lock:
                self._open |= {client, server}
            if self._gone:
                self.cut()
            replies = threading.Thread(target=self._forward, args=(server, client, True))
            replies.start()
            self._forward(client, server, False)
            replies.join()
            with self._lock:
                self._open -= {client, server}

    def _forward(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_reply:
                    self.flowing.wait()
                    data = self._damaged(data)
                whole = self._before_cut(data, is_reply)
                target.sendall(whole)
                if len(whole) < len(data):
                    break
        _hang_up(source)
        _hang_up(target)

    def _damaged(self, data: bytes) -> bytes:
        if len(data) < _BULK or self.damaging <= 0:
            return data
        self.damaging -= 1
        self.damaged += 1
        middle = len(data) // 2
        changed = bytes(byte ^ 0xFF for byte in data[middle : middle + _DAMAGE])
        return data[:middle] + changed + data[middle + len(changed) :]

    def _before_cut(self, data: bytes, is_reply: bool) -> bytes:
        """What of `data` still gets through. Commands and short replies always do."""
        cuts = self.reads if is_reply else self.writes
        with self._lock:
            if len(data) < _BULK or not cuts:
                return data
            if cuts[0].after >= len(data):
                cuts[0].after -= len(data)
                return data
            cut = cuts.pop(0)
            if cut.then is not None:
                cut.then()
            return data[: cut.after]


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
