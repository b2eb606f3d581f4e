"""What is served, as Anthropic's clients read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class AnthropicModel(BaseModel):
    """created_at: when this runtime began to serve it"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: datetime

    @classmethod
    def of(cls, name: str, created: int) -> AnthropicModel:
        """created: seconds since 1970"""
        return cls(id=name, display_name=name, created_at=datetime.fromtimestamp(created, UTC))


class AnthropicModels(BaseModel):
    """All there are: there is one page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: list[AnthropicModel]
    has_more: Literal[False] = False
    first_id: str | None
    last_id: str | None
