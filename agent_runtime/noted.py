"""What this package has noted in the store, as it comes back: it may have been damaged there."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from state_store.errors import CorruptObject

Noted = TypeVar("Noted", bound=BaseModel)


def noted(kind: type[Noted], stored: bytes | str, what: str) -> Noted:
    """stored: as JSON; what: it is. Raises CorruptObject."""
    try:
        return kind.model_validate_json(stored)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise CorruptObject(
            f"{what} cannot be read: it is damaged in the store ({first['msg']}). Nothing was done."
        ) from error
