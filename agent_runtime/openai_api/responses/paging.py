"""Lists as OpenAI pages them: from after an item on, the latest first unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict

from agent_runtime.errors import BadRequest
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.openai_api.responses.requests import require_includable


class Page(BaseModel):
    """Which part of a list is asked for."""

    model_config = ConfigDict(frozen=True)

    after: str | None
    limit: int
    order: Literal["asc", "desc"]

    def of(self, items: Sequence[Item]) -> dict[str, Any]:
        """items: all, the earliest first. Raises BadRequest."""
        ordered = list(items) if self.order == "asc" else list(items)[::-1]
        if self.after is not None:
            ids = [item["id"] for item in ordered]
            if self.after not in ids:
                raise BadRequest(f"no item {self.after[:100]} in this list.", param="after")
            # Behind the last one, should a response's input repeat an id: then every list ends.
            ordered = ordered[len(ids) - ids[::-1].index(self.after) :]
        shown = ordered[: self.limit]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(ordered) > len(shown),
        }


def _page(
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    include: Annotated[list[str] | None, Query()] = None,
    include_more: Annotated[list[str] | None, Query(alias="include[]")] = None,
) -> Page:
    require_includable([*(include or ()), *(include_more or ())])
    return Page(after=after, limit=limit, order=order)


Paged = Annotated[Page, Depends(_page)]
