"""Calls of tools as a model makes them; `tools.formats` reads them from its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


class ToolCall(BaseModel):
    """One call. In the XML format every argument is a string, until a schema says what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, Any] = {}


@dataclass(frozen=True)
class Fresh:
    """What has become certain of a message with its last piece."""

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]


@dataclass(frozen=True)
class ParsedMessage:
    """text: what is meant to be seen, without calls and thinking, blanks around it removed
    reasoning: what stood between the thinking tags
    problems:  every deviation from the format that was tolerated, one sentence each
    """

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    problems: tuple[str, ...]
