"""What calling a tool does to the world, and so whether a call may be made again."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """pure:       nothing but an answer: may be called again at any time
    idempotent: what is done twice with the same `Context.key` is done once
    effectful:  may do something that calling it again would do again
    """

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    EFFECTFUL = "effectful"
