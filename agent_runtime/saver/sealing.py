"""Seals of what saver and memory keep for a tenant: serialized values, each for its own place.

Of a tenant who stores in the clear, and of nobody's, they change nothing. What the scripts in the
store and its indexes look at is not sealed: see docs/langgraph.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from state_store.cipher import ValueKey, open_value, seal_value
from state_store.connection import Control
from state_store.tenants import Tenants
from state_store.vault import TenantKey, Vault

Serialized = tuple[str, bytes]
"""As LangGraph's serializers have it: how, and the bytes."""


@dataclass(frozen=True)
class Sealing:
    """value_key: None to leave all as it is; digest_key: of names that follow from contents, which
    nobody else can test a guess by, empty for digests that need no key"""

    value_key: ValueKey | None = None
    digest_key: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, key: TenantKey | None, prefix: str) -> Sealing:
        """prefix: of the keys in the store that it is for"""
        if key is None:
            return cls()
        return cls(key.value_key(prefix), key.value_key(f"{prefix}:digests").reveal())

    def seal(self, serialized: Serialized, *place: str | bytes) -> Serialized:
        """place: where it is kept, below the prefix; it opens only there"""
        kind, body = serialized
        if self.value_key is None:
            return serialized
        return kind, seal_value(body, self.value_key, _bound(kind, place))

    def open(self, sealed: Serialized, *place: str | bytes) -> Serialized:
        """Raises CorruptObject for what was not sealed for this place under this key."""
        kind, body = sealed
        if self.value_key is None:
            return sealed
        return kind, open_value(body, self.value_key, _bound(kind, place))


CLEAR = Sealing()


async def sealing_of(
    control: Control, tenant: str, prefix: str, *, vault: Vault | None, store_prefix: str
) -> Sealing:
    """store_prefix: of the store that has the tenant. Raises NotFound when there is no such tenant,
    TenantDeleted; VaultLocked without its master key, InvalidKey; InvalidTenant."""
    tenants = Tenants(control, store_prefix, vault or Vault())
    return Sealing.of(tenants.key(await tenants.find(tenant)), prefix)


def _bound(kind: str, place: tuple[str | bytes, ...]) -> bytes:
    """No two places are the same bytes: each part is as long as it says."""
    parts = [part.encode() if isinstance(part, str) else part for part in (kind, *place)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
