"""How one session's objects are stored: its economy class, and its tenant's key if it has one.

on the device ──encode──> fewer bytes ──encrypt──> stored      both in place, in this order

An engine sees page names and salts, not sessions. So the salt of whatever is not stored as it is on
the device begins with the name of its form, which an engine with the master key can open:

    form:<tenant>:<tenant id>:<economy>:<secret>
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from state_store.encodings import ECONOMIES, LOSSLESS, Economy, economy_named
from state_store.errors import InvalidKey
from state_store.layout import Kind

if TYPE_CHECKING:
    from state_store.encodings import PayloadLayout
    from state_store.fingerprint import Fingerprint
    from state_store.records import SessionBody, Snapshot, Tenant
    from state_store.vault import TenantKey


_MARK = "form:"


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


@dataclass(frozen=True)
class FormName:
    """Says which form it is, and has no key in it. tenant_id: of that stay of the tenant"""

    tenant: str
    tenant_id: str
    economy: str

    @classmethod
    def of(cls, record: SessionBody | Snapshot) -> Self | None:
        """None for what is stored as it is on the device."""
        if not record.encrypted and record.economy == LOSSLESS:
            return None
        return cls(record.tenant, record.tenant_id, record.economy)

    @classmethod
    def of_salt(cls, salt: str | None) -> Self | None:
        """None for a salt of what is stored as it is on the device. Raises InvalidKey."""
        if salt is None or not salt.startswith(_MARK):
            return None
        parts = salt.removeprefix(_MARK).split(":")
        if len(parts) != 4:
            raise InvalidKey("a salt that names a form is malformed; nothing is stored under it.")
        return cls(*parts[:3])


PLAIN = StoredForm(ECONOMIES[LOSSLESS], {}, None)


def page_salt(tenant: Tenant, key: TenantKey | None, economy: str) -> str:
    """Salt of the names of a tenant's pages of one economy class; secret like a key.

    key: the tenant's, None for one who stores in the clear
    """
    secret = salt_of_class(tenant.salt if key is None else key.page_salt(), economy)
    if key is None and economy == LOSSLESS:
        return secret
    return f"{_MARK}{tenant.name}:{tenant.id}:{economy}:{secret}"


def salt_of_class(salt: str, economy: str) -> str:
    """Salt of the pages of one economy class of a tenant, 64 hex digits or the tenant's own.

    salt: the tenant's

    Rounded pages and states have other names than exact ones, in the store and in the memory of
    engines, which the same salt divides: no lossless session ever continues from rounded numbers.
    """
    if economy == LOSSLESS:
        return salt
    return hashlib.sha256(f"torpor economy\0{economy}\0{salt}".encode()).hexdigest()
