"""Hypothesis tries the same examples in every run, and must not fail a test because the machine was
busy; pytest's own timeout stands."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tools.sandbox import Limits, Ran, Sandbox
from tools.sandbox.command import python
from tools.workspaces import Workspaces

settings.register_profile(
    "busy machine",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy machine")

# Far below what this machine has: a limit that fails must not take the machine down, so no test
# tries to use more than a few times as much.
MILD = Limits(
    seconds=90.0,  # so that a busy machine never ends a command before what it is tested for
    cpu_seconds=10,
    memory=120 * 2**20,
    processes=16,
    file_bytes=8 * 2**20,
    workspace_bytes=16 * 2**20,
    workspace_files=200,
    free_disk=1,
    temporary_bytes=4 * 2**20,
    output_bytes=64 * 2**10,
)


@dataclass(frozen=True)
class Box:
    """A sandbox with mild limits on a workspace of its own."""

    workspace: Path
    sandbox: Sandbox

    async def shell(self, script: str, **limits: float) -> Ran:
        return await self._run(["/bin/sh", "-c", script], limits)

    async def python(self, code: str, **limits: float) -> Ran:
        return await self._run([python(), "-c", code], limits)

    async def _run(self, command, limits):
        changed = replace(self.sandbox.limits, **limits)
        return await self.sandbox.run(command, self.workspace, limits=changed)


@pytest.fixture
def workspaces(tmp_path):
    return Workspaces(tmp_path / "workspaces")


@pytest.fixture
def box(workspaces):
    return Box(workspaces.create("one"), Sandbox(MILD))
