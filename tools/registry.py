"""The tools that one agent has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from tools.errors import BadDefinition
from tools.results import Ending, ToolResult
from tools.tool import Tool, ToolSpec


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

    def tools(self) -> tuple[Tool, ...]:
        return tuple(self._tools.values())

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def unknown(self, name: str) -> ToolResult:
        """Tells the model that it has no such tool, and which ones it has."""
        near = difflib.get_close_matches(name, self._tools, n=1)
        did_you = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(self._tools) or "none"
        why = f"there is no tool named {name}; the tools are: {known}{did_you}"
        return ToolResult.failed(why, Ending.REFUSED)

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Make one attempt of one call. Whatever goes wrong is a result, for the model to read.

        An `Executor` runs calls with everything that their tools declare.
        """
        tool = self._tools.get(name)
        return self.unknown(name) if tool is None else await tool.call(arguments)
