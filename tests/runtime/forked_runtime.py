"""A runtime that starts in a moment, to be killed: forked from a process that has imported it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time

import httpx

from agent_runtime.service.server import serve
from agent_runtime.settings import RuntimeSettings, ServiceSettings
from engine.launch import free_port

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["agent_runtime.service.server"])


def _serve(settings: str, port: int, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    asyncio.run(serve(ServiceSettings(**json.loads(settings), port=port)))


class ForkedRuntime:
    """The same service as `torpor serve`, on a port that it keeps."""

    def __init__(self, settings: RuntimeSettings, log: str) -> None:
        self._settings = settings.model_dump_json()
        self._log = log
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = None

    def start(self) -> None:
        """Without waiting until it answers."""
        self.process = _FORKS.Process(
            target=_serve, args=(self._settings, self._port, self._log), daemon=True
        )
        self.process.start()

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            while True:
                try:
                    client.get("/health")
                except httpx.HTTPError:
                    assert self.process.is_alive(), self._log
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                else:
                    return

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.join()
