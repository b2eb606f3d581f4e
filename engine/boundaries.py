"""How far apart the states inside a prompt are kept, and how a request tells its engine.

A state is of a fixed size, however many tokens it sums up. Closer together than the tokens whose KV
takes as many bytes, states would cost more than the KV between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_ACTION = "torpor.boundary_interval"
_VERSION = "1"


def break_even(*, page_size: int, page_bytes: int, state_bytes: int) -> int:
    """Tokens whose KV is as large as a state."""
    return -(-state_bytes * page_size // page_bytes)


class Hint(NamedTuple):
    """What a request wants of the states inside its prompt.

    interval: most tokens between two of them
    marks:    token counts at which there is to be one, whatever is before it; ascending
    """

    interval: int
    marks: tuple[int, ...] = ()

    def on(self, grid: int) -> Hint:
        """With each mark at the last multiple of `grid` that is not behind it."""
        return self._replace(marks=tuple(mark // grid * grid for mark in self.marks))

    def next_mark(self, after: int, before: int) -> int | None:
        """The first between two token counts, both excluded."""
        return next((mark for mark in self.marks if after < mark < before), None)


def hinted(tokens: int, marks: Sequence[int] = ()) -> dict[str, Any]:
    """The fields of a `Hint`, as SGLang's `kv_hints` carry them."""
    payload = {"tokens": tokens, "marks": list(marks)}
    action = {"action_type": _ACTION, "action_version": _VERSION, "payload": payload}
    return {
        "protocol_version": "1",
        "message_id": _ACTION,
        "actions": [{"action_id": _ACTION, **action}],
    }


def hint_in(kv_hints: Any) -> Hint | None:
    """What `hinted` put into a request's hints; None if nobody did. kv_hints: SGLang's envelope"""
    for action in kv_hints.actions if kv_hints is not None else ():
        if (action.action_type, action.action_version) == (_ACTION, _VERSION):
            marks = action.payload.get("marks", ())
            return Hint(int(action.payload["tokens"]), tuple(sorted(map(int, marks))))
    return None
