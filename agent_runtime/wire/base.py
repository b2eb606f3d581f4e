"""What all that travels has in common."""

from __future__ import annotations

from pydantic import ConfigDict

from agent_runtime.wire.lists import FewFields


class Wire(FewFields):
    """Has its fields and no others, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
