"""Seals of what is a tenant's and no lineage's: names and values of its notes and items.

Of a tenant who stores in the clear they change nothing. Those of an encrypted one are under the
tenant's own key, each value for its own place: they go with the tenant, or when they expire.
"""

from __future__ import annotations

import functools
import hmac
from dataclasses import dataclass, field

from state_store.cipher import open_value, seal_value
from state_store.vault import TenantKey


@dataclass(frozen=True)
class TenantSeals:
    """record: the tenant's, as it was read; a writer makes sure that it is still so"""

    record: bytes = field(repr=False)
    key: TenantKey | None

    def name(self, name: str) -> str:
        """What stands for a name in the store."""
        if self.key is None:
            return name
        return hmac.digest(self._name_digest_key, name.encode(), "sha256").hex()

    def seal(self, value: bytes, place: str) -> bytes:
        """place: key of the value in the store; it opens only there"""
        if self.key is None:
            return value
        return seal_value(value, self.key.value_key(place), place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Raises CorruptObject."""
        if self.key is None:
            return sealed
        return open_value(sealed, self.key.value_key(place), place.encode())

    @functools.cached_property
    def _name_digest_key(self) -> bytes:
        assert self.key is not None, "asked for by encrypted tenants only"
        return self.key.name_digest_key()
