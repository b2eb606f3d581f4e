"""Settings of the whole suite."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "tests.browsing", "tests.slowness"]

# What SGLang compiles at first use is kept in the repository's own ignored folder.
os.environ.setdefault(
    "TORCH_EXTENSIONS_DIR", str(Path(__file__).parents[1] / ".torpor" / "torch_extensions")
)

# Hypothesis must not fail a test because the machine was busy, nor find today what it did not find
# yesterday; pytest's own timeout stands.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def node_programs():
    """The folder of the programs in Node, which set-up installs as they are locked there."""
    folder = Path(__file__).parent / "node"
    locked, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder
