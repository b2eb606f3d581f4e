"""llama.cpp's own HTTP server, from the `xllamacpp` wheel, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

START_SECONDS = 120


class LlamaServer:
    """Serves until `close`. In this process the extension would crash the interpreter's exit."""

    def __init__(self, gguf: Path, alias: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, gguf, alias))
        self._process.start()
        if not self._pipe.poll(START_SECONDS):
            self._process.kill()
            raise RuntimeError("llama.cpp's server did not come up")
        self.url = f"{self._pipe.recv()}/v1"

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Connection, gguf: Path, alias: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.model_alias = {alias}
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.use_jinja = True
    parameters.default_template_kwargs = {"enable_thinking": "false"}
    server = xllamacpp.Server(parameters)
    pipe.send(server.listening_address)
    pipe.recv()
    os._exit(0)  # past the handlers that crash
