"""A unix-socket proxy in front of a real server. What it does to what passes is the test's."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class UnixProxy:
    """Has `serve` called, in a thread of its own, for each client that connects."""

    def __init__(self, path: Path, upstream_url: str) -> None:
        self.url = f"unix://{path}"
        self.upstream = upstream_url.removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        """Both are closed when it returns."""
        raise NotImplementedError

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
                thread = threading.Thread(target=self._run, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _run(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self.upstream)
            self.serve(client, server)


def hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
