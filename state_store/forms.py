"""How one session's objects are stored: its economy class, and its tenant's key if it has one.

on the device ──encode──> fewer bytes ──encrypt──> stored      both in place, in this order
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from state_store.encodings import ECONOMIES, LOSSLESS, Economy, economy_named
from state_store.layout import Kind

if TYPE_CHECKING:
    from state_store.encodings import PayloadLayout
    from state_store.fingerprint import Fingerprint
    from state_store.vault import TenantKey


@dataclass(frozen=True)
class StoredForm:
    """What `Payloads` does to payloads on their way to the store, and undoes on the way back.

    layouts:    which bytes of a page and of a state hold which dtype; not used when lossless
    tenant_key: None for a tenant who stores in the clear
    """

    economy: Economy
    layouts: dict[Kind, PayloadLayout]
    tenant_key: TenantKey | None

    @classmethod
    def of(
        cls,
        fingerprint: Fingerprint,
        *,
        economy: str = LOSSLESS,
        tenant_key: TenantKey | None = None,
    ) -> Self:
        """Raises UnknownEconomy."""
        layouts: dict[Kind, PayloadLayout] = {
            "kv": fingerprint.layout("kv"),
            "state": fingerprint.layout("state"),
        }
        return cls(economy_named(economy), layouts, tenant_key)

    @property
    def plain(self) -> bool:
        """Whether objects are stored as they are on the device."""
        return not self.economy.lossy and self.tenant_key is None


PLAIN = StoredForm(ECONOMIES[LOSSLESS], {}, None)


def salt_of_class(salt: str, economy: str) -> str:
    """Salt of the pages of one economy class of a tenant, 64 hex digits or the tenant's own.

    salt: the tenant's

    Rounded pages and states have other names than exact ones, in the store and in the memory of
    engines, which the same salt divides: no lossless session ever continues from rounded numbers.
    """
    if economy == LOSSLESS:
        return salt
    return hashlib.sha256(f"torpor economy\0{economy}\0{salt}".encode()).hexdigest()
