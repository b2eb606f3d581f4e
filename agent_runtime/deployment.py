"""The processes of a deployment on one machine: store, engine and runtime, each its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from agent_runtime.errors import SetupError
from engine.backends.settings import BackendSettings
from engine.launch import require_free_port
from state_store.children import start_child

_START_TIMEOUT = 60.0  # seconds
_STOP_TIMEOUT = 65.0  # seconds: a runtime's drain_timeout, 30 s, and 35 s for the rest
_SCRATCH = ".torpor-scratch"  # marks a folder that may be emptied
_POLL = 0.1


@dataclass(frozen=True)
class Layout:
    """Where things are kept under one data directory."""

    data: Path

    @property
    def store(self) -> Path:
        return self.data / "store"

    @property
    def engine_log(self) -> Path:
        return self.data / "engine.log"

    @property
    def runtime_log(self) -> Path:
        return self.data / "runtime.log"

    @property
    def native_cache(self) -> Path:
        """Native helpers that SGLang compiles at first use."""
        return self.data.absolute() / "torch_extensions"

    @property
    def native_cache_beside(self) -> Path:
        """The same, for a directory that is emptied now and then."""
        return self.data.absolute().parent / "torch_extensions"


def emptied(folder: Path) -> None:
    """Have `folder` be there and empty, for a demo or a measurement.

    Raises SetupError if it holds anything and is not known to be theirs; then it is unchanged.
    """
    mark = folder / _SCRATCH
    ours = mark.exists() or (folder.parent.name == ".torpor" and folder.name != "data")
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise SetupError(
            f"{folder} would be emptied, and holds what no demo and no measurement has left there; "
            "nothing was deleted. Name another folder, or empty it yourself."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


class RuntimeProcess:
    """`torpor serve` as a child process. It ends with us."""

    def __init__(
        self,
        *,
        redis_url: str,
        archive: str | None,
        model: Path | None,
        port: int,
        log_file: Path,
        backend: BackendSettings | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """options: further ones of the command. Raises EngineStartFailed when the port is taken."""
        require_free_port("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"
        self._command = [
            sys.executable, "-m", "agent_runtime.cli", "serve",
            "--redis", redis_url, "--port", str(port),
            *(() if model is None else ("--model", str(model))),
            *(() if archive is None else ("--archive", archive)),
            *(() if backend is None else _options_of(backend)),
            *options,
        ]  # fmt: skip
        self._log_file = log_file
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "the runtime is not started"
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers. Raises SetupError."""
        with self._log_file.open("ab") as log:
            self.process = start_child(
                self._command,
                sent_at_our_end=signal.SIGTERM,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ.copy(),
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/health").status_code == 200:
                        return
                time.sleep(_POLL)
        self.stop()
        tail = self._log_file.read_text(errors="replace").splitlines()[-1:]
        raise SetupError(f"the runtime did not come up: {' '.join(tail)} (log: {self._log_file})")

    def stop(self) -> None:
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """`kill -9`, as a crash would."""
        self._end(subprocess.Popen.kill)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self.process is None:
            return
        how(self.process)
        try:
            self.process.wait(timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _options_of(backend: BackendSettings) -> list[str]:
    key = backend.key_variable
    return [
        *("--backend", backend.url, "--backend-model", backend.model),
        *("--backend-timeout", str(backend.timeout)),
        *(() if key is None else ("--backend-key", key)),
    ]
