"""Keeps the whole of results that were cut, for the model to read on."""

from __future__ import annotations

import secrets
from collections import OrderedDict

from tools.define import Tool, define
from tools.effects import Effect
from tools.errors import ToolFailed
from tools.results import FilePart, ToolResult


class KeptResults:
    """In this process, the newest ones. Give its `tool` to the model: `read_result`.

    A result is read by its name, which nobody can guess: only histories that were told it, and
    their forks, read on. No other result ever has that name, in no process.
    most_chars: of all of them together; the oldest are dropped, and a longer one is not kept
    """

    def __init__(self, *, most_chars: int = 20_000_000) -> None:
        self._most_chars = most_chars
        self._texts: OrderedDict[str, str] = OrderedDict()

    def cut(self, tool: Tool, result: ToolResult) -> ToolResult:
        """As much of a result of the tool as the model may have, saying how to read the rest."""
        text = "\n".join(part.text for part in result.parts if not isinstance(part, FilePart))
        if len(text) <= tool.max_chars or len(text) > self._most_chars:
            return tool.cut(result)
        name = f"result-{secrets.token_hex(8)}"
        self._texts[name] = text
        while sum(map(len, self._texts.values())) > self._most_chars:
            self._texts.popitem(last=False)
        read_on = f'Ask for less, or read on: read_result(name="{name}", start={{start}})'
        return result.cut(tool.max_chars, read_on)

    @property
    def tool(self) -> Tool:
        def read_result(name: str, start: int = 1, characters: int = 10_000) -> str:
            """Reads a part of a result that was too long.

            Args:
                name: Of the result, as it was told
                start: The first character to read, from 1
                characters: How many to read
            """
            text = self._texts.get(name)
            if text is None:
                raise ToolFailed(
                    f"there is no {name}, or not any more; call the tool again and ask for less"
                )
            part = text[max(0, start - 1) :][: max(0, characters)]
            end = max(1, start) + len(part) - 1
            return f"[characters {max(1, start):,} to {end:,} of {len(text):,}]\n{part}"

        return define(read_result, effect=Effect.PURE, max_chars=100_000)
