"""Runtimes in processes of their own, on a free port."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_runtime.deployment import RuntimeProcess
from engine.backends.settings import BackendSettings
from engine.launch import free_port


def runtime_process(
    redis_url: str,
    log_file: Path,
    *,
    archive: str | None = None,
    model: Path | None = None,
    backend: BackendSettings | str | None = None,
    options: Sequence[str] = (),
) -> RuntimeProcess:
    """Not started. backend: or the URL of an endpoint whose model is `scripted`"""
    if isinstance(backend, str):
        backend = BackendSettings(url=backend, model="scripted")
    return RuntimeProcess(
        redis_url=redis_url,
        archive=archive,
        model=model,
        port=free_port(),
        log_file=log_file,
        backend=backend,
        options=options,
    )
