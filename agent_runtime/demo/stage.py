"""The processes of the demo: started, killed and started again from what is on disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from agent_runtime.processes import Layout, RuntimeProcess
from engine.launch import EngineOptions, EngineProcess, checked_model, free_port
from engine.profiles import PROFILES, Profile
from state_store.embedded import EmbeddedServer


class Stage:
    """Store, engine and runtime under one data directory, which is emptied first."""

    def __init__(
        self,
        data: Path,
        model: Path | None,
        *,
        profile: Profile = PROFILES["demo"],
        archive: str | None = None,
    ) -> None:
        """archive: URL; without, nothing is archived. Raises EngineStartFailed when there is no
        model."""
        self.archive = archive
        self.profile = profile
        self.model = checked_model(model or self.profile.model)
        self.layout = Layout(data)
        shutil.rmtree(self.layout.data, ignore_errors=True)
        self.layout.data.mkdir(parents=True)
        self.files = self.layout.data / "files"
        self.files.mkdir()
        self._port, self._engine_port = free_port(), free_port()
        self.store: EmbeddedServer
        self.engine: EngineProcess
        self.runtime: RuntimeProcess

    def start(self, waiting: Callable[[float], None]) -> None:
        """Start all three; `waiting` is called with the seconds that the engine has taken."""
        with contextlib.ExitStack() as undo:
            self.store = undo.enter_context(EmbeddedServer(self.layout.store))
            self.engine = EngineProcess(
                EngineOptions(
                    profile=self.profile,
                    redis_url=self.store.url,
                    archive=self.archive,
                    log_file=self.layout.engine_log,
                    model=self.model,
                    port=self._engine_port,
                    cache_dir=self.layout.native_cache,
                )
            )
            undo.enter_context(self.engine)
            self.engine.wait_until_serving(waiting=waiting)
            self.runtime = RuntimeProcess(
                redis_url=self.store.url,
                archive=self.archive,
                model=self.model,
                port=self._port,
                log_file=self.layout.runtime_log,
            )
            undo.enter_context(self.runtime)
            undo.pop_all()  # they live on until `kill` or `stop`

    def kill(self) -> list[int]:
        """`kill -9` all three; the pids that were killed."""
        pids = [self.engine.pid, self.runtime.pid, self.store.pid]
        self.engine.kill()
        self.runtime.kill()
        self.store.kill()
        return pids

    def stop(self) -> None:
        self.runtime.stop()
        self.engine.stop()
        self.store.stop()
