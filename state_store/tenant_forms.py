"""The forms of tenants' sessions, for an engine: it has the master key, and is told salts.

    salt ── names the form ── tenant's record ── opened by the master key ── the tenant's key
                                                      └─ gives the very same salt, or is refused

A salt that names a form cannot be made without the tenant's key, so nobody has objects of one
tenant stored in the form of another, nor in the clear. Blocking and thread-safe.
"""

from __future__ import annotations

import hmac
import threading
import time
from typing import NamedTuple

from state_store.errors import CorruptObject, InvalidKey, TenantDeleted, UnknownEconomy, VaultLocked
from state_store.fingerprint import Fingerprint
from state_store.forms import PLAIN, FormName, StoredForm, page_salt
from state_store.layout import TenantKeys
from state_store.objects import ObjectClient
from state_store.records import Tenant
from state_store.vault import Vault

REFUSALS = (VaultLocked, InvalidKey, TenantDeleted, UnknownEconomy, CorruptObject)
"""Errors about one tenant's objects: the store itself answers, and others' go on."""
KNOWN_SECONDS = 60.0
"""After so long a tenant's key is forgotten and its record read again: it may have been deleted."""


class _Known(NamedTuple):
    form: StoredForm
    salt: str
    at: float


class TenantForms:
    """Of one engine rank. Raises StoreUnavailable when the store does not answer."""

    def __init__(
        self, client: ObjectClient, prefix: str, fingerprint: Fingerprint, vault: Vault
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._fingerprint = fingerprint
        self._vault = vault
        self._known: dict[FormName, _Known] = {}
        self._lock = threading.Lock()

    def of_salt(self, salt: str | None) -> StoredForm:
        """What is named under that salt is stored in this form. Raises VaultLocked, TenantDeleted,
        InvalidKey for a salt that is none of the tenant's, UnknownEconomy."""
        name = FormName.of_salt(salt)
        if name is None:
            return PLAIN
        known = self._get(name)
        if salt is None or not hmac.compare_digest(known.salt.encode(), salt.encode()):
            raise InvalidKey(
                f"a salt names tenant {name.tenant} and is not the tenant's; nothing is stored or "
                "loaded under it."
            )
        return known.form

    def of(self, name: FormName | None) -> StoredForm:
        """None: as on the device. Raises as `of_salt`."""
        return PLAIN if name is None else self._get(name).form

    def close(self) -> None:
        self._client.close()

    def _get(self, name: FormName) -> _Known:
        with self._lock:
            old = time.monotonic() - KNOWN_SECONDS
            self._known = {one: known for one, known in self._known.items() if known.at > old}
            known = self._known.get(name)
            if known is None:
                known = self._known[name] = self._read(name)
        return known

    def _read(self, name: FormName) -> _Known:
        (stored,) = self._client.get_small([TenantKeys(self._prefix, name.tenant).record.encode()])
        tenant = None if stored is None else Tenant.unpack(stored)
        if tenant is None or tenant.deleted or tenant.id != name.tenant_id:
            raise TenantDeleted(
                f"tenant {name.tenant} was deleted; nothing of it is stored or loaded any more."
            )
        key = None
        if tenant.wrapped_key is not None:
            key = self._vault.open(tenant.wrapped_key, tenant.name)
        form = StoredForm.of(self._fingerprint, economy=name.economy, tenant_key=key)
        return _Known(form, page_salt(tenant, key, name.economy), time.monotonic())
