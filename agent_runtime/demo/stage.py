"""The processes of the demo: started, killed and started again from what is on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent_runtime.deployment import Layout, RuntimeProcess, emptied
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
        master_key: str | None = None,
    ) -> None:
        """archive: URL; without, nothing is archived. master_key: where it is, if tenants are to
        be encrypted. Raises EngineStartFailed when there is no
        model, SetupError for a directory that is not to be emptied."""
        self.archive = archive
        self.master_key = master_key
        self.profile = profile
        self.model = checked_model(model or self.profile.model)
        self.layout = Layout(data)
        emptied(self.layout.data)
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
            self.engine = EngineProcess(self._engine_options())
            undo.enter_context(self.engine)
            self.engine.wait_until_serving(waiting=waiting)
            self.runtime = RuntimeProcess(
                redis_url=self.store.url,
                archive=self.archive,
                model=self.model,
                port=self._port,
                log_file=self.layout.runtime_log,
                options=() if self.master_key is None else ("--master-key", self.master_key),
            )
            undo.enter_context(self.runtime)
            undo.pop_all()  # they live on until `kill` or `stop`

    def restart_engine(self) -> None:
        """`kill -9` the engine, and wait until one serves in its place."""
        self.engine.kill()
        self.engine.start()
        self.engine.wait_until_serving()

    def other_engine(self, name: str) -> EngineProcess:
        """One more for the same model, without the linker: SGLang alone. It is not started."""
        options = self._engine_options()
        log_file = self.layout.data / f"engine-{name}.log"
        return EngineProcess(
            replace(options, port=free_port(), log_file=log_file, engine_id=name, linker=False)
        )

    def kill(self) -> list[int]:
        """`kill -9` all three; the pids that were killed."""
        pids = [self.engine.pid, self.runtime.pid, self.store.pid]
        self.engine.kill()
        self.runtime.kill()
        self.store.kill()
        return pids

    def stop(self) -> None:
        """The engine is killed: asked to end, it takes seconds, and nobody needs what it has."""
        self.runtime.stop()
        self.engine.kill()
        self.store.stop()

    def _engine_options(self) -> EngineOptions:
        return EngineOptions(
            profile=self.profile,
            redis_url=self.store.url,
            archive=self.archive,
            master_key=self.master_key,
            log_file=self.layout.engine_log,
            model=self.model,
            port=self._engine_port,
            cache_dir=self.layout.native_cache_beside,
        )
