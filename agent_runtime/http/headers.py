"""Headers that several routes take, or answer with."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Header, Response

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
"""Says which requests are one: a repeated one is answered as the first was."""


def name_next(
    response: Response, path: str, *, limit: int, after: str | None, **asked: object
) -> None:
    """Has the `Link` header lead to the next page of a list, unless this is the last one.

    after: what the next page comes after, None if there is none; asked: what else it is asked with
    """
    if after is None:
        return
    given = {"limit": limit, "after": after, **asked}
    query = urlencode({name: value for name, value in given.items() if value}, doseq=True)
    response.headers["Link"] = f'<{path}?{query}>; rel="next"'
