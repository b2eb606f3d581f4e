"""Starting one engine: SGLang with our linker, as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil

from engine.addresses import local_url, reached_at, require_free_id
from engine.checkpoint import INDEX, read_weights
from engine.errors import EngineStartFailed
from engine.linker.config import LinkerConfig
from engine.profiles import Profile
from state_store.children import start_child
from state_store.vault import Vault

START_TIMEOUT = 1800.0  # seconds; loading a terabyte of weights takes a while
_POLL = 0.2
_REQUIRED = ("config.json", "tokenizer.json", "*.safetensors")


@dataclass(frozen=True)
class EngineOptions:
    """Where one engine finds its model and its store, and where it listens and logs."""

    profile: Profile
    redis_url: str
    log_file: Path
    model: Path | None = None
    host: str = "127.0.0.1"
    port: int = 30000
    advertise: str | None = None
    """URL under which runtimes reach it. Without: what `host` says, see `addresses.reached_at`."""
    mtp: bool = True
    linker: bool = True
    """Without it nothing is stored and no runtime finds the engine: to measure what it costs."""
    engine_id: str = "engine"
    prefix: str = "torpor"
    archive: str | None = None
    """URL of the archive that objects are read from when they are not in Redis."""
    master_key: str | None = None
    """Where the master keys of encrypted tenants are, see `Vault.load`."""
    cache_dir: Path | None = None
    """Where SGLang keeps the native helpers that it compiles at first use."""
    load_deadline: float = LinkerConfig.model_fields["load_deadline"].default
    """Seconds after which stored state that is not read is computed instead."""
    extra: tuple[str, ...] = ()
    """Further SGLang arguments; they win over the profile's."""


class EngineProcess:
    """SGLang's server process and its children. They end with us."""

    def __init__(self, options: EngineOptions) -> None:
        """Raises EngineStartFailed when there is no model, the port is taken, or nobody can tell
        where others reach it; InvalidUrl; VaultLocked or InvalidKey when there is no master key
        where it should be."""
        self.options = options
        self.model = checked_model(options.model or options.profile.model)
        self.boot_id = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None
        if options.master_key is not None:
            Vault.load(options.master_key)  # an error now, not in the middle of the engine's start
        require_free_port(options.host, options.port)
        where = options.host, options.port
        self.url = local_url(*where)
        """Where this machine reaches it."""
        self.advertised = options.advertise or reached_at(*where, options.redis_url)
        """Where runtimes do."""

    @property
    def pid(self) -> int:
        assert self.process is not None, "the engine is not started"
        return self.process.pid

    def command(self) -> list[str]:
        options = self.options
        return [
            sys.executable, "-m", "engine.serve",
            "--model-path", str(self.model),
            "--host", options.host,
            "--port", str(options.port),
            "--skip-tokenizer-init",
            *(self._linker_arguments() if options.linker else ()),
            *options.profile.command_line(mtp=options.mtp),
            *options.extra,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Of the process; it has what must not be seen in its command line."""
        environment = os.environ | self.options.profile.environment
        environment["HF_HUB_OFFLINE"] = "1"
        if self.options.cache_dir is not None:
            environment.setdefault("TORCH_EXTENSIONS_DIR", str(self.options.cache_dir))
        return environment | (self._linker().environment() if self.options.linker else {})

    def _linker(self) -> LinkerConfig:
        options = self.options
        return LinkerConfig(
            url=options.redis_url,
            prefix=options.prefix,
            engine_id=options.engine_id,
            boot_id=self.boot_id,
            advertised=self.advertised,
            archive=options.archive,
            master_key=options.master_key,
            load_deadline=options.load_deadline,
        )

    def _linker_arguments(self) -> list[str]:
        external = {
            "linker": "TorporLinker",
            "linker_module_path": "engine.linker.linker",
            "linker_extra_config": self._linker().arguments(),
        }
        return [
            "--enable-unified-cache-external-linker",
            "--unified-cache-external-linker-backend", "dynamic",
            "--unified-cache-external-linker-config", json.dumps(external),
        ]  # fmt: skip

    def start(self) -> None:
        """Start the process; `wait_until_serving` tells when it is of use.

        Raises EngineStartFailed when another engine that lives has its id.
        """
        options = self.options
        if options.linker:
            require_free_id(
                options.engine_id, self.advertised, options.redis_url, prefix=options.prefix
            )
        self.boot_id = secrets.token_hex(8)  # a new one: what was on the device is not
        options.log_file.parent.mkdir(parents=True, exist_ok=True)
        with options.log_file.open("ab") as log:
            self.process = start_child(
                self.command(),
                sent_at_our_end=signal.SIGKILL,  # its id and its port are free at once
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,  # a Ctrl-C at the terminal is for us to handle
            )

    def wait_until_serving(
        self, *, timeout: float = START_TIMEOUT, waiting: Callable[[float], None] | None = None
    ) -> None:
        """Return when the server answers; `waiting` is called with the seconds so far.

        Raises EngineStartFailed when the process ends first or `timeout` s pass.
        """
        started = time.monotonic()
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while (elapsed := time.monotonic() - started) < timeout:
                if self.process is None or self.process.poll() is not None:
                    raise EngineStartFailed(f"the engine ended while starting. {self._log_tail()}")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/health").status_code == 200:
                        client.get("/v1/loads")  # its first answer is slow: not to a runtime
                        return
                if waiting is not None:
                    waiting(elapsed)
                time.sleep(_POLL)
        self.stop()
        raise EngineStartFailed(f"the engine did not serve in {timeout:g} s. {self._log_tail()}")

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Ask the server to finish; what is left of it after 20 s is killed, by pid."""
        self._end(signal.SIGTERM, patience=20.0)

    def kill(self) -> None:
        """`kill -9` the server and all its processes, as a crash would."""
        self._end(signal.SIGKILL, patience=10.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, how: signal.Signals, *, patience: float) -> None:
        if self.process is None:
            return
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
        for member in family if how is signal.SIGKILL else family[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(how)
        _, left = psutil.wait_procs(family, timeout=patience)
        for member in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(left, timeout=5.0)
        self.process.wait()

    def _log_tail(self) -> str:
        lines = self.options.log_file.read_text(errors="replace").splitlines()
        telling = [line for line in lines if "rror" in line or "torpor:" in line]
        tail = (telling or lines)[-1:]
        return f"{' '.join(tail)[-400:]} (log: {self.options.log_file})"


def checked_model(model: Path | None) -> Path:
    """`model`, if a complete checkpoint is there, to the last byte. Raises EngineStartFailed."""
    if model is None:
        raise EngineStartFailed("this profile needs a checkpoint directory: --model PATH.")
    if not model.is_dir():
        raise EngineStartFailed(
            f"no model in {model}. Point --model at a checkpoint directory, or run `make model` "
            "in Torpor's repository, which makes the demo model."
        )
    missing = [pattern for pattern in _REQUIRED if not any(model.glob(pattern))]
    if missing:
        raise EngineStartFailed(f"the model in {model} is incomplete: no {', '.join(missing)}.")
    try:
        problems = read_weights(model).problems
    except (OSError, ValueError, KeyError) as error:
        problems = (f"{INDEX}: {error}",)
    if problems:
        raise EngineStartFailed(
            f"the model in {model} is damaged: {'; '.join(problems[:3])}. Copy it or download it "
            "again."
        )
    return model.absolute()


def require_free_port(host: str, port: int) -> None:
    """Raises EngineStartFailed if somebody listens on `port` already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EngineStartFailed(
                f"port {port} on {host} cannot be used: {error.strerror}. Choose another one."
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
