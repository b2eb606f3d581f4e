"""The Agents SDK's `Session`: the items of a conversation, kept by the runtime.

What the model knows of them is found again by what was said: see `sessions/conversations.py`.
"""

from __future__ import annotations

from typing import cast

from agents.items import TResponseInputItem

from agent_runtime.sdk import Torpor


class TorporSession:
    """One conversation's items. They live as long as the runtime finds conversations, a week after
    the last was added, unless it is told otherwise.

    Every method raises ApiError and ApiUnreachable.
    """

    def __init__(
        self,
        session_id: str,
        *,
        url: str = "http://127.0.0.1:8700",
        api_key: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        """session_id: up to 200 letters, digits and any of `._:@-`; timeout: seconds"""
        self.session_id = session_id
        self._url = url
        self._api_key = api_key
        self._timeout = timeout

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The last `limit` items, or all, in their order."""
        async with self._torpor() as torpor:
            items = await torpor.items(self.session_id, limit=limit)
        return cast("list[TResponseInputItem]", items)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        async with self._torpor() as torpor:
            await torpor.add_items(self.session_id, items)

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item away; None if there is none."""
        async with self._torpor() as torpor:
            return cast("TResponseInputItem | None", await torpor.pop_item(self.session_id))

    async def clear_session(self) -> None:
        async with self._torpor() as torpor:
            await torpor.clear_items(self.session_id)

    def _torpor(self) -> Torpor:
        return Torpor(self._url, api_key=self._api_key, timeout=self._timeout)
