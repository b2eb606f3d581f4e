"""What goes wrong, in words for a person at a terminal."""

from __future__ import annotations

from agent_runtime.chat.view import harmless
from agent_runtime.sdk.errors import ApiError, ApiUnreachable, passes

FAILED, LATER = 1, 3
"""Exit codes: it will go wrong again, or it may be tried again."""

_WHAT_TO_DO = {
    "unreachable": "Start a service with `torpor up`, or say where it is with --url.",
    "unauthorized": "Put a key into TORPOR_API_KEY, or name another variable with --key-variable.",
    "forbidden": "Use a key whose role is `use`.",
    "no_engine": "Start an engine with `torpor engine up`; sessions are safe in the store.",
}


def told(error: Exception) -> str:
    """What happened, and what to do about it."""
    hint = _WHAT_TO_DO.get(getattr(error, "code", ""), "")
    happened = harmless(str(error))
    end = "" if happened.endswith((".", "!", "?")) else "."
    return f"{happened}{end} {hint}".strip()


def exit_code(error: Exception) -> int:
    may_pass = isinstance(error, ApiError | ApiUnreachable) and passes(error)
    return LATER if may_pass else FAILED
