"""Requests are read up to their first flaws.

A list or an object of a million wrong values has a million flaws, and to tell them all would cost
many times what reading it does.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator

_MOST = 100  # fields of an object whose values are looked at; none has use for as many

_Item = TypeVar("_Item")

Several = Annotated[list[_Item], Field(fail_fast=True)]


def _few(sent: object) -> object:
    if isinstance(sent, dict) and len(sent) > _MOST:
        raise ValueError(f"it has {len(sent)} fields, and {_MOST} are the most that are looked at")
    return sent


FEW = BeforeValidator(_few)
"""Of a dict, or of a model: one of too many fields is refused before they are looked at."""

Named = Annotated[dict[str, _Item], FEW]


class FewFields(BaseModel):
    """A model that is refused so itself."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, sent: object) -> object:
        return _few(sent)
