"""The part of `StateStore` about tenants: who there is, and how what is theirs is stored."""

from __future__ import annotations

from state_store import erasure
from state_store.connection import Control
from state_store.encodings import LOSSLESS
from state_store.fingerprints import Fingerprints
from state_store.forms import StoredForm
from state_store.quotas import Quota, Quotas
from state_store.records import Session, Tenant
from state_store.sessions import Sessions
from state_store.tenants import Tenants
from state_store.usage import Usage, Usages


class Tenancy:
    """Every method raises StoreUnavailable when the store does not answer."""

    _control: Control
    _prefix: str
    _tenants: Tenants
    _sessions: Sessions
    _fingerprints: Fingerprints
    _quotas: Quotas
    _usages: Usages

    async def salt(self, session: Session) -> str:
        """Salt of the names of the session's pages: its tenant's and economy class's own.

        Secret like a key. Raises TenantDeleted, VaultLocked, InvalidKey.
        """
        tenant = await self._tenants.same(session.body.tenant, session.body.tenant_id)
        return self._tenants.salt(tenant, session.body.economy)

    async def master_key_id(self, tenant: str) -> str | None:
        """Id of the master key that an engine must have for the tenant's sessions; None for a
        tenant who stores in the clear. Raises InvalidTenant, TenantDeleted, InvalidKey."""
        return await self._tenants.master_key_id(tenant)

    async def stored_form(self, session: Session) -> StoredForm:
        """How `Payloads` is to write and read the session's objects.

        Raises TenantDeleted, VaultLocked, InvalidKey, UnknownFingerprint.
        """
        tenant = await self._tenants.same(session.body.tenant, session.body.tenant_id)
        return StoredForm.of(
            await self._fingerprints.get(session.body.fingerprint_id),
            economy=session.body.economy,
            tenant_key=self._tenants.key(tenant),
        )

    async def create_tenant(
        self, name: str, *, encrypted: bool = False, economy: str = LOSSLESS
    ) -> Tenant:
        """A new tenant, also one whose name a deleted tenant had.

        encrypted: everything its sessions store is, under a key of its own
        economy:   class of its sessions, unless they say otherwise

        Raises TenantExists, InvalidTenant, UnknownEconomy, VaultLocked.
        """
        # What a deletion that ended half way has left of an earlier one.
        if await self._tenants.is_deleted(name):
            await erasure.delete_sessions(self._control, self._prefix, self._sessions, name)
        return await self._tenants.create(name, encrypted=encrypted, economy=economy)

    async def tenant(self, name: str) -> Tenant:
        """The tenant's record. One that was never created is made at first use, in the clear and
        lossless. Raises InvalidTenant, TenantDeleted."""
        return await self._tenants.get(name)

    async def find_tenant(self, name: str) -> Tenant:
        """As `tenant`, and none is made. Raises NotFound, InvalidTenant, TenantDeleted."""
        return await self._tenants.find(name)

    async def page_of_tenants(
        self, *, limit: int, after: str | None = None
    ) -> tuple[list[Tenant], str | None]:
        """At most `limit` tenants that were made and not deleted, by name, from after a name on;
        and the name that the next ones come after, None if there are none. Raises
        InvalidArgument."""
        return await self._tenants.list.page(limit=limit, after=after)

    async def rewrap_tenant(self, name: str) -> None:
        """Wrap the tenant's key with the newest master key, so that older ones can go.

        Raises VaultLocked, InvalidKey, TenantDeleted.
        """
        await self._tenants.rewrap(name)

    async def delete_tenant(self, name: str) -> int:
        """Delete a tenant, all its sessions and all its keys; how many sessions were removed.

        Without its key nothing that an encrypted tenant ever stored can be read, wherever there
        are copies. The servers' append-only files keep the deleted until they are written anew,
        which is begun here on all masters; replicas and backups are not reached. What the archive
        has of it is deleted by the next `recover` or `sweep` with it open. The name stays
        taken: only `create_tenant` makes it usable again. May be repeated, to finish a deletion
        that ended half way. Raises NotFound, InvalidTenant, DurabilityNotReached.
        """
        return await erasure.delete_tenant(
            self._control, self._prefix, self._tenants, self._sessions, name
        )

    async def set_quota(self, tenant: str, quota: Quota) -> None:
        """How much a tenant may have: what exceeds it is refused with QuotaExceeded, what is
        there stays. Raises InvalidTenant."""
        await self._quotas.set(tenant, quota)

    async def quota(self, tenant: str) -> Quota:
        """Raises InvalidTenant."""
        return await self._quotas.get(tenant)

    async def require_room(self, tenant: str, *, bytes: int = 0, tokens: int = 0) -> None:
        """Raises QuotaExceeded if so much more would exceed the tenant's quota. A commit holds the
        room that it needs itself: this spares work that could not be committed."""
        await self._quotas.require_room(tenant, bytes=bytes, tokens=tokens)

    async def tenants(self) -> list[str]:
        """Names of the tenants that have sessions."""
        return await self._usages.tenants()

    async def usage_report(self, tenant: str) -> Usage:
        """What a tenant's sessions take, counted by walking all of them. Raises InvalidTenant."""
        return await self._usages.report(tenant)
