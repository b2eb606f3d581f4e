"""The store's user: whether it may do all that Torpor does."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from agent_runtime.doctor.findings import Finding, fail, ok
from state_store.rights import trials

_PREFIX = "torpor"  # of the store's keys


def missing_rights(client: Any, topology: str) -> list[str]:
    """Those that the client's user lacks. topology: see `trials`"""
    missing = []
    for right, words in trials(_PREFIX, topology).items():
        try:
            client.execute_command(*words)
        except NoPermissionError:
            missing.append(right)
        except ResponseError:
            continue  # it may be sent; what it would do here does not matter
    return missing


def rights(missing: list[str], name: str) -> Finding:
    """name: of the server"""
    subject = f"{name} rights"
    if not missing:
        return ok(subject, f"its user may do all that Torpor does with keys {_PREFIX}:*")
    lacking = " ".join(f"+{right}" for right in missing)
    return fail(
        subject,
        f"its user lacks {lacking} with keys {_PREFIX}:*",
        why="a session fails where it comes to one of these commands",
        fix=f"ACL SETUSER USER ~{_PREFIX}:* {lacking} (docs/deploy-store.md has all rights)",
    )
