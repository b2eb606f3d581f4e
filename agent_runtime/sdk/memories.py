"""The memory of one session: what was said in it, for `tools.memory_search`."""

from __future__ import annotations

from agent_runtime.sdk import Torpor
from tools.memory_search import Memory

_PAGE = 1000  # messages, the most that one request reads


class SessionMemories:
    """`tools.memory_search.Memories` of a session: a fork knows what its history leads to,
    and what was rewound is forgotten. `memories` raises ApiError, ApiUnreachable."""

    def __init__(self, torpor: Torpor, session_id: str) -> None:
        self._torpor = torpor
        self._session_id = session_id

    async def memories(self) -> list[Memory]:
        newest_first = [
            Memory(one.text, one.role, one.at)
            async for one in self._torpor.messages(self._session_id, limit=_PAGE)
            if one.text and one.role != "system"
        ]
        return newest_first[::-1]
