"""The tools that a session or a conversation is declared with, looked at as they come.

What is stored is not looked at again, so a name that a model could not write, or a schema that is
none, is refused here.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from agent_runtime.wire.lists import FEW, Several
from tools.define import ToolSpec
from tools.schemas import flaw_of

_NAME = re.compile(r"[\w.:/-]{1,128}")


def _usable(tool: ToolSpec) -> ToolSpec:
    if _NAME.fullmatch(tool.name) is None:
        raise ValueError(
            f"{tool.name[:140]!r} is no name of a tool: one has 1 to 128 letters, digits and _ . : "
            "/ -"
        )
    if (flaw := flaw_of(tool.parameters)) is not None:
        raise ValueError(f"the parameters of tool {tool.name!r} are no JSON schema: {flaw}")
    return tool


def _told_apart(tools: list[ToolSpec]) -> list[ToolSpec]:
    names: set[str] = set()
    for tool in tools:
        if tool.name in names:
            raise ValueError(f"two tools are called {tool.name!r}, and a call could mean either")
        names.add(tool.name)
    return tools


DeclaredTools = Annotated[
    Several[Annotated[ToolSpec, FEW, AfterValidator(_usable)]], AfterValidator(_told_apart)
]
