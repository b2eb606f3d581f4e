"""What an answer must be: calls of tools, JSON of a schema, a pattern."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from agent_runtime.wire.base import Wire


class NamedTool(Wire):
    """`tool_choice` of one tool."""

    name: str


class Constraints(Wire):
    """What an answer is held to, token by token. At most one of `json_schema`, `regex`, `ebnf`."""

    tool_choice: Literal["auto", "none", "required"] | NamedTool = "auto"
    """`none`: no tool is called. `required`, or a name: the answer is calls and nothing else, with
    arguments that fit the tools' schemas."""
    parallel_tool_calls: bool = True
    """Whether an answer may be more than one call; if not, calls fit the tools' schemas too."""
    strict_calls: bool = False
    """Calls that the model makes of itself fit the tools' schemas too."""
    json_schema: dict[str, Any] | None = None
    """The answer is JSON of this schema. With tools and `auto`, or calls."""
    regex: str | None = None
    """The answer matches the whole of this pattern."""
    ebnf: str | None = None
    """The answer is a `root` of this grammar, in xgrammar's notation."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [one for one in (self.json_schema, self.regex, self.ebnf) if one is not None]
        if len(given) > 1:
            raise ValueError("an answer is held to a schema, a pattern or a grammar, not to two")
        if given and self.tool_choice not in ("auto", "none"):
            raise ValueError("an answer that must be calls cannot be anything else as well")
        return self

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked of the answer."""
        asked = (self.json_schema, self.regex, self.ebnf)
        free = self.tool_choice == "auto" and self.parallel_tool_calls and not self.strict_calls
        return free and all(one is None for one in asked)
