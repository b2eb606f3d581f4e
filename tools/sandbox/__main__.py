"""`python -m tools.sandbox`: whether code can be isolated here, and what that needs."""

from __future__ import annotations

import sys

from tools.sandbox import check

support = check()
held = [f"memory held by {support.held_by}"] if support.available else []
lines = [support.found, *held, "needed:", *(f"- {need}" for need in support.needs)]
sys.stdout.write("\n".join(lines) + "\n")
sys.exit(0 if support.available else 1)
