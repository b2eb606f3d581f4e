"""LMCache's own client of Redis, a C++ extension: what it moves KV chunks through.

LMCache as an engine's cache needs CUDA (docs/bench.md), so only the extension is loaded, without
the package around it.
"""

from __future__ import annotations

import importlib.util
import select
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from agent_runtime.errors import SetupError

_PATIENCE = 60.0  # seconds


class LMCacheClient:
    """One connection over TCP. Raises SetupError where LMCache is not installed."""

    def __init__(self, host: str, port: int) -> None:
        self._client = _extension().LMCacheRedisClient(host, port, 1)

    def close(self) -> None:
        self._client.close()

    def put(self, keys: Sequence[str], values: Sequence[memoryview]) -> None:
        self._wait(self._client.submit_batch_set(keys, values))

    def get_into(self, keys: Sequence[str], frames: Sequence[memoryview]) -> None:
        self._wait(self._client.submit_batch_get(keys, frames))

    def _wait(self, submitted: int) -> None:
        """As its asyncio client does: an event descriptor tells of what has completed."""
        while True:
            if not select.select([self._client.event_fd()], [], [], _PATIENCE)[0]:
                raise AssertionError(f"LMCache's client has done nothing for {_PATIENCE:g} s")
            for number, succeeded, error, _ in self._client.drain_completions():
                if not succeeded:
                    raise AssertionError(f"LMCache's client failed: {error}")
                if number == submitted:
                    return


def _extension() -> ModuleType:
    import torch  # noqa: F401  (the extension is linked against its libraries)

    folder = Path(sysconfig.get_paths()["platlib"]) / "lmcache"
    file = next(iter(folder.glob("lmcache_redis.*.so")), None)
    if file is None:
        raise SetupError(f"no LMCache in {folder}: pip install --no-deps lmcache==0.5.6")
    spec = importlib.util.spec_from_file_location("lmcache_redis", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
