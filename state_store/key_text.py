"""The text of an API key, which its owner sends. Needs no store: clients read it too.

torpor-TENANT.ID.SECRET
torpor-@operators.ID.SECRET
"""

from __future__ import annotations

import re
from typing import NamedTuple

from state_store.errors import InvalidTenant
from state_store.layout import TenantKeys

_SHAPE = re.compile(r"torpor-(?P<tenant>.+)\.(?P<id>[0-9a-f]{12})\.(?P<secret>[0-9a-f]{64})")


class KeyText(NamedTuple):
    """tenant: as the text says; nothing has been looked up"""

    tenant: str
    id: str
    secret: str

    def __str__(self) -> str:
        return f"torpor-{self.tenant}.{self.id}.{self.secret}"


def read_key(text: str) -> KeyText | None:
    """None for what has not the form of a key."""
    shape = _SHAPE.fullmatch(text)
    return None if shape is None else KeyText(shape["tenant"], shape["id"], shape["secret"])


def tenant_of(text: str) -> str | None:
    """Whose key `text` says it is, None for what has not the form of one."""
    key = read_key(text)
    if key is None:
        return None
    try:
        return TenantKeys("", key.tenant).tenant
    except InvalidTenant:
        return None
