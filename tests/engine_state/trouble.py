"""A proxy in front of the store that is slow, gone, cut off, or damages what comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

_BULK = 4096  # bytes at once; less is a reply to a command, not a payload


class TroubledStore:
    """flowing:  replies are forwarded while it is set
    damaging: the number of payload pieces, from now on, in which one byte is changed
    damaged:  how many were
    cuts:     what ends a connection in the middle of a payload, next first: whether it is on its
              way to the client, and how many bytes of payloads have passed that way before
    cut_off:  how many connections ended so
    """

    def __init__(self, path: Path, upstream_url: str) -> None:
        self.url = f"unix://{path}"
        self.flowing = threading.Event()
        self.flowing.set()
        self.damaging = self.damaged = 0
        self.cuts: list[tuple[bool, int]] = []
        self.cut_off = 0
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
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    def _before_cut(self, data: bytes, is_reply: bool) -> bytes:
        """What of `data` still gets through. Commands and short replies always do."""
        with self._lock:
            if len(data) < _BULK or not self.cuts or self.cuts[0][0] is not is_reply:
                return data
            left = self.cuts[0][1] - len(data)
            if left >= 0:
                self.cuts[0] = (is_reply, left)
                return data
            del self.cuts[0]
            self.cut_off += 1
            return data[:left]


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
