"""A proxy in front of the store that one rank of an engine may lose, and the others keep."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.unix_proxy import UnixProxy, hang_up


class RankProxy(UnixProxy):
    """lost: a rank whose objects nobody reads or writes through here: it is hung up on"""

    lost: int | None = None

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        replies = threading.Thread(target=self._forward, args=(server, client, False))
        replies.start()
        self._forward(client, server, True)
        replies.join()

    def _forward(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_request and self.lost is not None and b":%d:{" % self.lost in data:
                    break
                target.sendall(data)
        hang_up(source)
        hang_up(target)
