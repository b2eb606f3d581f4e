"""The names under which an engine knows a session: one for each stay on its device.

SGLang remembers the names of sessions that were closed, so one that comes back needs another.
"""

from __future__ import annotations


def tagged(session_id: str, stay: int) -> str:
    """The engine's name for a stay of the session."""
    return f"{session_id}.{stay}"


def session_of(tag: str) -> str:
    """The session that stays under that name."""
    return tag.rpartition(".")[0] or tag
