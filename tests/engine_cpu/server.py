"""A real SGLang server over HTTP, started the way users start it: ``python -m engine.serve``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models" / "demo"
ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "SGLANG_MAMBA_CONV_DTYPE": "float32",  # bfloat16 by default, even with --dtype float32
    "OMP_NUM_THREADS": "1",
}
PAGE_SIZE = 64
CHUNK_SIZE = 256
NO_TEXT = "--skip-tokenizer-init"
ARGUMENTS = [
    NO_TEXT,
    *("--device", "cpu", "--dtype", "float32", "--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch", "--grammar-backend", "none"),
    *("--disable-cuda-graph", "--disable-overlap-schedule", "--sleep-on-idle"),
    *("--max-total-tokens", "16384", "--max-running-requests", "4"),
    *("--max-mamba-cache-size", "32", "--context-length", "8192"),
    *("--page-size", str(PAGE_SIZE), "--chunked-prefill-size", str(CHUNK_SIZE)),
    *("--mamba-radix-cache-strategy", "extra_buffer", "--mamba-track-interval", str(PAGE_SIZE)),
    "--enable-cache-report",
]
MTP = [
    *("--speculative-algorithm", "NEXTN", "--speculative-num-steps", "3"),
    *("--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "4"),
]
START_SECONDS = 240
Answer = dict[str, Any]


class Server:
    def __init__(self, port: int) -> None:
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """`kill -9` it and all its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def generate(self, prompts: list[list[int]], new_tokens: int, top: int = 5) -> list[Answer]:
        """Greedy answers, with log-probabilities of the chosen and the `top` best tokens."""
        answers: list[Answer] = json.loads(
            self._post(
                "/generate",
                {
                    "input_ids": prompts,
                    "sampling_params": {
                        "temperature": 0,
                        "max_new_tokens": new_tokens,
                        "ignore_eos": True,
                    },
                    "return_logprob": True,
                    "top_logprobs_num": top,
                },
            )
        )
        return answers

    def flush_cache(self) -> None:
        self._post("/flush_cache", {})

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self._url("/health"), timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url(path), json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def running(model: Path, log: Path, *more: str, tokenizer: bool = False) -> Iterator[Server]:
    """A server on a free port, ready to answer; its log is shown if it does not come up.

    tokenizer: with it, the server answers text and chats too
    """
    server = Server(_free_port())
    where = ["--model-path", str(model), "--port", str(server.port)]
    command = [sys.executable, "-m", "engine.serve", *where, *ARGUMENTS, *more]
    if tokenizer:
        command.remove(NO_TEXT)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server.process = process
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server: {process.poll()=}\n{log.read_text()[-5000:]}")
            time.sleep(0.3)
        yield server
    finally:
        if process.poll() is None:
            server.kill()  # asked to end, SGLang would wait for seconds


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
