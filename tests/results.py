"""Results of turns that nobody has taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_runtime.wire.turns import TurnResult, Usage


def turn_result(*, usage: Mapping[str, Any] = {}, **fields: Any) -> TurnResult:
    """Of a turn with an empty answer and no tokens, but for what is given."""
    return TurnResult(
        **{
            "session_id": "ses-0",
            "parent": None,
            "text": "",
            "tool_calls": [],
            "problems": [],
            "finish_reason": "stop",
            "token_ids": [],
            "mtp_accept_length": None,
            **fields,
        },
        usage=Usage(
            **{
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "reused_tokens": 0,
                "recomputed_tokens": 0,
                "boundary_tokens": 0,
                "recompute_reason": None,
                **usage,
            }
        ),
    )
