"""A proxy in front of the store that one rank of an engine may lose, and the others keep."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class RankProxy:
    """lost: a rank whose objects nobody reads or writes through here: it is hung up on"""

    def __init__(self, path: Path, upstream_url: str) -> None:
        self.url = f"unix://{path}"
        self.lost: int | None = None
        self._upstream = upstream_url.removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Call it when its clients are gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._upstream)
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
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
