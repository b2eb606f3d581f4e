"""The built-in tools that a chat can give to its model, by their names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_runtime.errors import UnknownTool
from agent_runtime.sdk import Torpor
from agent_runtime.sdk.memories import SessionMemories
from agent_runtime.workspaces import SessionWorkspaces, usual_tools
from tools.approval import Approval, Rule, Verdict
from tools.calculator import calculator
from tools.define import ToolSpec
from tools.fetch import FetchLimits, fetch_tool
from tools.file_search import file_search
from tools.memory_search import memory_search
from tools.registry import Registry
from tools.running import Executor
from tools.tool import Tool
from tools.workspaces import Workspaces

CODE = ("python", "shell")
"""Tools that run what a model has written."""

_WHY = {Verdict.REFUSE: "Nobody is there to allow it."}


@dataclass(frozen=True)
class Toolbox:
    """files:   where the files of workspaces are
    folder:  that `file_search` looks in; without, there is no such tool
    hosts:   that `fetch` may reach; without any, there is no such tool
    code:    whether code may run: a person is asked first, unless this says otherwise
    """

    torpor: Torpor
    files: Path
    folder: Path | None = None
    hosts: Sequence[str] = ()
    code: Verdict = Verdict.ASK

    def specs(self, names: Collection[str] | None = None) -> list[ToolSpec]:
        """Of the tools with these names, in their order; of all if None. Raises UnknownTool."""
        known = {spec.name: spec for spec in self._all()}
        if names is None:
            return list(known.values())
        for name in names:
            if name not in known:
                needs = {"fetch": " It needs --fetch-from.", "file_search": " It needs --folder."}
                raise UnknownTool(
                    f"there is no tool {name!r} here; the tools are: {', '.join(known)}."
                    + needs.get(name, "")
                )
        return [known[name] for name in dict.fromkeys(names)]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those that a session's model knows and that cannot be run here."""
        known = {spec.name for spec in self._all()}
        return [name for name in names if name not in known]

    def executor(self, names: Collection[str]) -> Executor:
        """For those that are the same in every session."""
        rules = [Rule(name, self.code, why=_WHY.get(self.code, "")) for name in CODE]
        registry = Registry([tool for tool in self._shared() if tool.spec.name in names])
        return Executor(registry, ledger=self.torpor.ledger, approval=Approval(rules))

    def workspaces(self, names: Collection[str]) -> SessionWorkspaces | None:
        """Those that work on a session's files; None if it has none of them."""

        def chosen(path: Path) -> list[Tool]:
            return [tool for tool in usual_tools(path) if tool.spec.name in names]

        made = SessionWorkspaces(self.torpor, Workspaces(self.files), chosen)
        return made if made.specs() else None

    def of_session(self, session_id: str, names: Collection[str]) -> list[Tool]:
        """Those that each session has its own of."""
        memory = memory_search(SessionMemories(self.torpor, session_id))
        return [memory] if memory.spec.name in names else []

    def _all(self) -> list[ToolSpec]:
        workspaces = SessionWorkspaces(self.torpor, Workspaces(self.files), usual_tools)
        shared = [tool.spec for tool in self._shared()]
        memory = memory_search(SessionMemories(self.torpor, ""))
        return [*shared, memory.spec, *workspaces.specs()]

    def _shared(self) -> list[Tool]:
        tools = [calculator]
        if self.folder is not None:
            tools.append(file_search(self.folder))
        if self.hosts:
            tools.append(fetch_tool(FetchLimits(hosts=self.hosts)))
        return tools
