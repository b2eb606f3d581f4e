"""Lists in requests are read up to their first flaw.

A list of a million wrong values has a million flaws, and to tell them all would cost many times
what reading it does.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

_Item = TypeVar("_Item")

Several = Annotated[list[_Item], Field(fail_fast=True)]
