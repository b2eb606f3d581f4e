"""The tools that run code: Python and shell commands, in the sandbox, on one workspace."""

from __future__ import annotations

from pathlib import Path

from tools.define import Tool, define
from tools.effects import Effect, Scope
from tools.errors import FolderMissing, SandboxUnavailable, ToolFailed
from tools.results import ToolResult
from tools.sandbox import Sandbox
from tools.sandbox.command import python as interpreter

_MAIN = "/run/main.py"
_SPARE = 15.0  # seconds to start and end a sandbox on a busy machine
_REST = "Print less, or write to a file and read that in parts."


def code_tools(workspace: Path, sandbox: Sandbox | None = None) -> list[Tool]:
    """`python` and `shell`. What they change is the workspace's alone, and forks with it.

    sandbox: with limits of its own; the usual ones if left out
    Raises FolderMissing if `workspace` is not a folder. Where no sandbox can be made, the tools
    refuse, and say why.
    """
    if not workspace.is_dir():
        raise FolderMissing(f"the workspace {workspace} is not a folder; make one first.")
    box = sandbox or Sandbox()

    async def python(code: str) -> ToolResult:
        """Runs a Python program and shows what it prints. Only files in the working folder last
        from one program to the next.

        Args:
            code: The whole program
        """
        files = {_MAIN: code.encode()}
        return await _run(box, [interpreter(), _MAIN], workspace, files)

    async def shell(command: str) -> ToolResult:
        """Runs a command with sh in the working folder and shows what it prints.

        Args:
            command: For example grep -rn main src | head
        """
        return await _run(box, ["/bin/sh", "-c", command], workspace, {})

    return [
        define(
            function,
            effect=Effect.EFFECTFUL,
            scope=Scope.WORLD if box.network else Scope.BRANCH,
            timeout=box.limits.seconds + _SPARE,
            rest=_REST,
            workspace=workspace.resolve(),
        )
        for function in (python, shell)
    ]


async def _run(
    box: Sandbox, command: list[str], workspace: Path, files: dict[str, bytes]
) -> ToolResult:
    try:
        ran = await box.run(command, workspace, files=files)
    except SandboxUnavailable as error:
        raise ToolFailed(str(error)) from error
    if ran.exit_code == 0 and not ran.ended:
        return ToolResult.of(ran.text())
    return ToolResult.failed(ran.text())
