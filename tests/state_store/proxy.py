"""A unix-socket proxy in front of a real server that dribbles, and cuts, what comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Proxy:
    """Forwards replies in pieces of `piece` bytes.

    cut_after:       bytes of replies after which it hangs up, counted for each connection
    lose_next_reply: hang up, once, when the server has answered and before the client hears it
    flowing:         replies are forwarded while it is set
    """

    def __init__(self, path: Path, upstream_url: str) -> None:
        self.url = f"unix://{path}"
        self.piece = 1 << 16
        self.cut_after: int | None = None
        self.lose_next_reply = False
        self.flowing = threading.Event()
        self.flowing.set()
        self._upstream = upstream_url.removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.flowing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._upstream)
                for target in (self._requests, self._replies):
                    thread = threading.Thread(target=target, args=(client, server))
                    self._threads.append(thread)
                    thread.start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        _hang_up(server)

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        forwarded = 0
        with client, server, contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                self.flowing.wait()
                if self.lose_next_reply:
                    self.lose_next_reply = False
                    _hang_up(client)
                    _hang_up(server)
                    return
                for start in range(0, len(data), self.piece):
                    part = data[start : start + self.piece]
                    if self.cut_after is not None and forwarded + len(part) > self.cut_after:
                        client.sendall(part[: max(self.cut_after - forwarded, 0)])
                        _hang_up(client)
                        _hang_up(server)
                        return
                    client.sendall(part)
                    forwarded += len(part)
            _hang_up(client)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
