"""The store's door for each tenant's objects: in the form that a salt or a runtime names."""

from __future__ import annotations

from state_store.forms import FormName, StoredForm
from state_store.payloads import Payloads
from state_store.tenant_forms import TenantForms


class Doors:
    """One thread's `Payloads` in any form, over one connection. Raises as `TenantForms`."""

    def __init__(self, payloads: Payloads, forms: TenantForms) -> None:
        self._payloads = payloads
        self._forms = forms

    def of_salt(self, salt: str | None) -> Payloads:
        """For what is named under that salt."""
        return self._in(self._forms.of_salt(salt))

    def of(self, name: FormName | None) -> Payloads:
        return self._in(self._forms.of(name))

    def ping(self) -> None:
        self._payloads.ping()

    def close(self) -> None:
        self._payloads.close()

    def _in(self, form: StoredForm) -> Payloads:
        return self._payloads if form.plain else self._payloads.in_form(form)
