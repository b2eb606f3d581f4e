"""A unix-socket proxy in front of a real server that dribbles, and cuts, what comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from tests.unix_proxy import UnixProxy, hang_up


class Proxy(UnixProxy):
    """Forwards replies in pieces of `piece` bytes.

    cut_after:       bytes of replies after which it hangs up, counted for each connection
    stall_after:     bytes of replies after which it clears `flowing`, counted for each connection
    lose_next_reply: hang up, once, when the server has answered and before the client hears it
    flowing:         replies are forwarded while it is set
    """

    def __init__(self, path: Path, upstream_url: str) -> None:
        self.piece = 1 << 16
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.lose_next_reply = False
        self.flowing = threading.Event()
        self.flowing.set()
        super().__init__(path, upstream_url)

    def close(self) -> None:
        self.flowing.set()
        super().close()

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        requests = threading.Thread(target=self._requests, args=(client, server))
        requests.start()
        self._replies(client, server)
        requests.join()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
        hang_up(server)

    def _replies(self, client: socket.socket, server: socket.socket) -> None:
        forwarded = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                self.flowing.wait()
                if self.lose_next_reply:
                    self.lose_next_reply = False
                    hang_up(client)
                    hang_up(server)
                    return
                for start in range(0, len(data), self.piece):
                    part = data[start : start + self.piece]
                    if self.cut_after is not None and forwarded + len(part) > self.cut_after:
                        client.sendall(part[: max(self.cut_after - forwarded, 0)])
                        hang_up(client)
                        hang_up(server)
                        return
                    client.sendall(part)
                    forwarded += len(part)
                    if self.stall_after is not None and forwarded > self.stall_after:
                        self.flowing.clear()
        hang_up(client)
