"""What a request expects of a session, before anything is done."""

from __future__ import annotations

from agent_runtime.errors import HeadMoved
from agent_runtime.wire.turns import TurnRequest
from state_store.records import Session
from state_store.store import StateStore


def require_head(session: Session, expected: str | None) -> None:
    """Raises HeadMoved unless `expected` is the session's head, "" for an empty one, or None."""
    if expected not in (None, session.head or ""):
        raise HeadMoved(
            f"head of {session.id} is {session.head or 'empty'}, not {expected or 'empty'}; "
            "nothing was done. Read the session again and decide, or fork it where you were."
        )


async def require_expected(store: StateStore, session: Session, request: TurnRequest) -> None:
    """Raises HeadMoved, and FilesMissing for a version of the workspace that is not there."""
    require_head(session, request.expected_head)
    if request.workspace is not None:
        await store.files.require(session, request.workspace)
