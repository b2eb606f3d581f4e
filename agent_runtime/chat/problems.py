"""What goes wrong, in words for a person at a terminal."""

from __future__ import annotations

from agent_runtime.chat.view import harmless
from agent_runtime.errors import BadRequest, SetupError
from agent_runtime.sdk.errors import ApiError, ApiUnreachable, passes

FAILED, WRONG, LATER = 1, 2, 3
"""Exit codes: it will go wrong again, as what was asked for cannot be, or it may be tried again."""

_WRONG_OPTIONS = ("unsupported", "unknown_option")
"""Codes of the service, for options that its model does not know."""

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
    if isinstance(error, ApiError | ApiUnreachable) and passes(error):
        return LATER
    is_wrong = isinstance(error, BadRequest | SetupError)
    if isinstance(error, ApiError):
        is_wrong = error.code in _WRONG_OPTIONS
    return WRONG if is_wrong else FAILED
