"""How far apart the states inside a prompt are kept, and how a request tells its engine.

A state is of a fixed size, however many tokens it sums up. Closer together than the tokens whose KV
takes as many bytes, states would cost more than the KV between them.
"""

from __future__ import annotations

from typing import Any

_ACTION = "torpor.boundary_interval"
_VERSION = "1"


def break_even(*, page_size: int, page_bytes: int, state_bytes: int) -> int:
    """Tokens whose KV is as large as a state."""
    return -(-state_bytes * page_size // page_bytes)


def hinted(tokens: int) -> dict[str, Any]:
    """Most tokens between two states, as SGLang's `kv_hints` carry it."""
    payload = {"tokens": tokens}
    action = {"action_type": _ACTION, "action_version": _VERSION, "payload": payload}
    return {
        "protocol_version": "1",
        "message_id": _ACTION,
        "actions": [{"action_id": _ACTION, **action}],
    }


def hint_in(kv_hints: Any) -> int | None:
    """What `hinted` put into a request's hints; None if nobody did. kv_hints: SGLang's envelope"""
    for action in kv_hints.actions if kv_hints is not None else ():
        if (action.action_type, action.action_version) == (_ACTION, _VERSION):
            return int(action.payload["tokens"])
    return None
