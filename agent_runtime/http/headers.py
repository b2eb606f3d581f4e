"""Headers that several routes take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
"""Says which requests are one: a repeated one is answered as the first was."""
