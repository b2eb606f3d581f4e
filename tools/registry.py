"""The tools that one agent has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tools.define import Outcome, Tool, ToolSpec
from tools.errors import BadDefinition


class Registry:
    """Tools by name, in the order given. Raises BadDefinition if two share a name."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.spec.name in self._tools:
                raise BadDefinition(f"two tools are named {tool.spec.name}.")
            self._tools[tool.spec.name] = tool

    def specs(self) -> tuple[ToolSpec, ...]:
        """What to declare to the model."""
        return tuple(tool.spec for tool in self._tools.values())

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Run a tool. Whatever goes wrong is an Outcome with `error`, for the model to read."""
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return Outcome(f"there is no tool named {name}; the tools are: {known}", error=True)
        return await tool.call(arguments)
