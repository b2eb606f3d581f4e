"""What a tenant's sessions and snapshots are found by: their lists, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from state_store.labels import Labels
from state_store.pages import Listed, Page
from state_store.records import Session, Snapshot
from state_store.sessions import Sessions
from state_store.snapshots import Snapshots


class Finding:
    """Every method raises StoreUnavailable when the store does not answer."""

    _labels: Labels
    _sessions: Sessions
    _snapshots: Snapshots

    async def sessions(self, tenant: str) -> list[Session]:
        """All sessions of a tenant, newest first. Raises VaultLocked."""
        return await self._sessions.of_tenant(tenant)

    async def page_of_sessions(
        self,
        tenant: str,
        *,
        limit: int,
        after: Listed | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Page:
        """At most `limit` sessions of a tenant, newest first, from after a place in the list on.

        Of those that carry all of `labels`, fewer where others lie between them. Costs as much as
        the page may have sessions, however many there are. Raises VaultLocked, InvalidLabels,
        InvalidArgument.
        """
        return await self._sessions.page(tenant, limit=limit, after=after, labels=labels)

    async def heads(self, sessions: Sequence[Session]) -> dict[str, Snapshot]:
        """The heads of sessions by their ids, in one round trip to each server; without those that
        are gone or unreadable. Raises VaultLocked."""
        return await self._snapshots.readable([one.head for one in sessions if one.head])

    async def set_labels(
        self, any_id: str, labels: Mapping[str, str], *, tenant: str | None = None
    ) -> None:
        """Replace all labels of a session or snapshot; what they are found by.

        Raises NotFound, InvalidId, InvalidLabels (see `labels.check_labels` for the limits).
        """
        owner = await self._sessions.owner_of(any_id, tenant=tenant)
        await self._labels.set(owner, any_id, labels)

    async def labels(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The labels of sessions and snapshots by id; none for what is not there."""
        return await self._labels.of(ids)

    async def find_snapshots(self, tenant: str, labels: Mapping[str, str]) -> list[Snapshot]:
        """The tenant's snapshots that carry all of `labels`, newest first. Raises InvalidLabels."""
        found = await self._labels.find_snapshots(tenant, labels)
        return await self._snapshots.newest_first(found)
