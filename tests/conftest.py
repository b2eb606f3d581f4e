"""Settings of the whole suite."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

# What SGLang compiles at first use is kept in the repository's own ignored folder.
os.environ.setdefault(
    "TORCH_EXTENSIONS_DIR", str(Path(__file__).parents[1] / ".torpor" / "torch_extensions")
)

# Hypothesis must not fail a test because the machine was busy; pytest's own timeout stands.
settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")
