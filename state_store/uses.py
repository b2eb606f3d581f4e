"""When each session was last used: what a sweep of idle sessions goes by."""

from __future__ import annotations

from state_store.connection import Control, Script
from state_store.errors import NotFound
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.records import SessionBody


class Uses:
    """Last uses by the server's clock, in one list per tenant.

    A session that a sweep has moved out whole is on no list until it is used again.
    """

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._leased: dict[str, str] = {}  # session id -> tenant, of those this process writes

    async def note(self, tenant: str, session_id: str) -> None:
        """The session is used now."""
        await self._control.exchange([self.noting(tenant, session_id)])

    async def note_lease(self, tenant: str, session_id: str) -> None:
        """As `note`; the session will be committed to, and then `end_lease` follows."""
        self._leased[session_id] = tenant
        await self.note(tenant, session_id)

    def noting(self, tenant: str, session_id: str, *, if_listed: bool = False) -> Script:
        """What `note` runs. if_listed: only if it is on the list, which a deleted one is not"""
        flag = "XX" if if_listed else ""
        return Script("use", [TenantKeys(self._prefix, tenant).used], [session_id, flag])

    async def tenant_of(self, session_id: str) -> str:
        """The session's tenant, which is known while this process writes it. Raises NotFound."""
        tenant = self._leased.get(session_id)
        if tenant is None:
            keys = LineageKeys(self._prefix, lineage_of(session_id))
            async with self._control.guard() as client:
                stored = await client.hget(keys.session(session_id), "body")
            if stored is None:
                raise NotFound(f"no session {session_id}.")
            tenant = SessionBody.unpack(stored).tenant
        return tenant

    def end_lease(self, session_id: str) -> str | None:
        """The session's tenant; None if that is not known."""
        return self._leased.pop(session_id, None)

    async def forget_deleted(self, tenant: str, session_id: str) -> None:
        """The session may have been deleted as it was noted."""
        async with self._control.guard() as client:
            keys = LineageKeys(self._prefix, lineage_of(session_id))
            if not await client.exists(keys.session(session_id)):
                await client.zrem(TenantKeys(self._prefix, tenant).used, session_id)

    async def forget(self, tenant: str, session_id: str) -> None:
        """The session is gone."""
        async with self._control.guard() as client:
            await client.zrem(TenantKeys(self._prefix, tenant).used, session_id)
