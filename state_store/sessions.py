"""Sessions: named references to head snapshots, listed by tenant."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from state_store import garbage
from state_store.connection import Command, Control, Script
from state_store.encodings import economy_named
from state_store.errors import CorruptObject, ForeignTenant, InvalidId, NotFound, TenantDeleted
from state_store.fingerprint import Fingerprint
from state_store.labels import Labels, check_labels, labels_of
from state_store.layout import (
    LineageKeys,
    TenantKeys,
    check_session_id,
    lineage_of,
    new_lineage,
    new_session_id,
)
from state_store.lineages import Lineage, Lineages, Seals
from state_store.notes import delete_notes
from state_store.pages import Listed, Page, Part, part_of
from state_store.quotas import Quotas
from state_store.records import LabelSet, Session, SessionBody
from state_store.tenants import Tenants
from state_store.uses import Uses
from state_store.vault import new_lineage_seed

logger = logging.getLogger(__name__)

_FIELDS = ("body", "head", "labels")  # of a session's record
_ALL = 2**31  # more sessions than a lineage has
UNMADE = 60  # seconds after which a listed session without a record is not about to be made


def session_of(session_id: str, record: Sequence[bytes | None]) -> Session:
    """A session as it is stored, from body, head and labels. Raises NotFound, and CorruptObject,
    which names it."""
    body, head, labels = record
    if body is None:
        raise NotFound(f"no session {session_id}.")
    try:
        if head is None:
            raise CorruptObject("it lacks its head")
        return Session.unpack(body, head, labels)
    except CorruptObject as error:
        raise CorruptObject(
            f"the record of {session_id} cannot be read, but it can be deleted: {error}"
        ) from error


def _of_tenant(tenant: str | None, session: Session) -> Session:
    if tenant not in (None, session.body.tenant):
        raise ForeignTenant(f"no session {session.id}.")  # in the words of one that never was
    return session


class Sessions:
    """See the methods of the same names in `StateStore`."""

    def __init__(
        self,
        control: Control,
        prefix: str,
        tenants: Tenants,
        lineages: Lineages,
        uses: Uses,
        labels: Labels,
        quotas: Quotas,
    ) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants = tenants
        self._lineages = lineages
        self._uses = uses
        self._labels = labels
        self._quotas = quotas

    async def create(
        self,
        *,
        tenant: str,
        fingerprint: Fingerprint,
        economy: str | None = None,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """A new, empty session, the root of a new lineage.

        economy:    class that all of the lineage is stored in; the tenant's if None
        session_id: the session that has it already is returned as it is
        Raises TenantDeleted, VaultLocked, UnknownEconomy, InvalidLabels, InvalidId, ForeignTenant.
        """
        checked = check_labels(labels)
        if session_id is not None:
            check_session_id(session_id)
            if (made := await self._made(session_id, tenant=tenant)) is not None:
                return made
        given = (tenant, fingerprint, economy, checked, meta, session_id)
        try:
            return await self._create(*given)
        except TenantDeleted:  # the one that is known here; the name may be another's by now
            return await self._create(*given)

    async def _create(
        self,
        tenant: str,
        fingerprint: Fingerprint,
        economy: str | None,
        labels: dict[str, str],
        meta: Mapping[str, Any] | None,
        session_id: str | None,
    ) -> Session:
        owner = await self._tenants.get(tenant)
        body = SessionBody(
            id=session_id or new_session_id(new_lineage()),
            tenant=tenant,
            tenant_id=owner.id,
            economy=economy_named(economy or owner.economy).name,
            encrypted=owner.encrypted,
            fingerprint_id=fingerprint.id,
            meta=dict(meta or {}),
            forked_from=None,
            created_at=time.time(),
        )
        format = (
            "SET",
            f"{self._prefix}:fingerprint:{fingerprint.id}",
            fingerprint.model_dump_json(),
        )
        seals = None
        if body.encrypted:
            seals = await self._lineages.seals_under(Lineage.of(body), new_lineage_seed())
        made = await self._add(Session(body, None, labels), seals, root=True, beside=[format])
        # Maybe another's, made in between under its own seed.
        return await self.opened(_of_tenant(tenant, made))

    async def fork(
        self,
        session_id: str,
        *,
        snapshot_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        fork_id: str | None = None,
    ) -> Session:
        """A new session whose head is `snapshot_id` (the session's head if None).

        Copies nothing and costs the same at any length. Raises NotFound, VaultLocked, InvalidId.
        """
        checked = check_labels(labels)
        fork_id = fork_id or new_session_id(lineage_of(session_id))
        check_session_id(fork_id, lineage=lineage_of(session_id))
        stored, made = await self._rows([session_id, fork_id])
        parent = await self.opened(_of_tenant(tenant, session_of(session_id, stored)))
        head = snapshot_id or parent.head
        if head is not None and lineage_of(head) != lineage_of(session_id):
            raise NotFound(f"snapshot {head} is not in the history of {session_id}.")
        if made[0] is not None:
            return await self.opened(session_of(fork_id, made))
        return await self._branch(parent, head, checked, meta, fork_id)

    async def branch(
        self,
        parent: Session,
        head: str | None,
        *,
        labels: Mapping[str, str] | None,
        meta: Mapping[str, Any] | None,
        fork_id: str | None = None,
    ) -> Session:
        """A fork at exactly `head`, of the parent's lineage; the session `fork_id`, as it is, if
        there is one. Raises NotFound if `head` is gone."""
        checked = check_labels(labels)
        if fork_id is not None:
            check_session_id(fork_id, lineage=lineage_of(parent.id))
            if (made := await self._made(fork_id)) is not None:
                return made
        fork_id = fork_id or new_session_id(lineage_of(parent.id))
        return await self._branch(parent, head, checked, meta, fork_id)

    async def _branch(
        self,
        parent: Session,
        head: str | None,
        labels: dict[str, str],
        meta: Mapping[str, Any] | None,
        fork_id: str,
    ) -> Session:
        body = parent.body.model_copy(
            update={
                "id": fork_id,
                "meta": dict(parent.body.meta if meta is None else meta),
                "forked_from": parent.id,
                "forked_at": head,
                "created_at": time.time(),
            }
        )
        seals = await self._lineages.seals(Lineage.of(body))
        return await self.opened(await self._add(Session(body, head, labels), seals))

    async def get(self, session_id: str, *, tenant: str | None = None) -> Session:
        """Raises NotFound, ForeignTenant, InvalidId, VaultLocked."""
        return await self.opened(await self.record(session_id, tenant=tenant))

    async def opened(self, session: Session) -> Session:
        """With the meta of an encrypted tenant. Raises VaultLocked."""
        return Session(await self._lineages.opened(session.body), session.head, session.labels)

    async def record(self, session_id: str, *, tenant: str | None = None) -> Session:
        """As it is stored: without the meta of an encrypted tenant.

        Raises NotFound, ForeignTenant, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        async with self._control.guard() as client:
            stored = await client.hmget(keys.session(session_id), *_FIELDS)
        return _of_tenant(tenant, session_of(session_id, stored))

    async def check_tenant(self, any_id: str, tenant: str | None) -> None:
        """Raises ForeignTenant for a session or snapshot of another one; NotFound, InvalidId."""
        if tenant is not None:
            await self.owner_of(any_id, tenant=tenant)

    async def owner_of(self, any_id: str, *, tenant: str | None = None) -> str:
        """The tenant that a session or snapshot belongs to, and all of its lineage with it.

        Raises NotFound if nothing of the lineage is left, CorruptObject if none of its sessions
        can be read, ForeignTenant, InvalidId.
        """
        keys = LineageKeys(self._prefix, lineage_of(any_id))
        unreadable: CorruptObject | None = None
        for most in (1, _ALL):  # all say the same: any is enough while none is lost
            for stored in await self._control.run("owner", [keys.sessions], keys.session(""), most):
                try:
                    owner = SessionBody.unpack(stored).tenant
                except CorruptObject as error:
                    unreadable = error
                    continue
                if tenant not in (None, owner):
                    raise ForeignTenant(f"no {any_id}.")
                return owner
        raise unreadable or NotFound(f"no {any_id}.")

    async def get_many(self, session_ids: Sequence[str]) -> list[Session]:
        """Those that are there and can be read, in one round trip. Raises VaultLocked."""
        rows = await self._read(session_ids)
        return [await self.opened(row) for row in rows if isinstance(row, Session)]

    async def of_tenant(self, tenant: str) -> list[Session]:
        """All sessions of a tenant, newest first. Raises VaultLocked."""
        async with self._control.guard() as client:
            listed = await client.zrevrange(
                TenantKeys(self._prefix, tenant).sessions, 0, -1, withscores=True
            )
        return await self._listed(tenant, listed)

    async def page(
        self,
        tenant: str,
        *,
        limit: int,
        after: Listed | None,
        labels: Mapping[str, str] | None = None,
    ) -> Page:
        """At most `limit` sessions of a tenant, newest first; of those that carry all of `labels`
        fewer, where some that were looked at do not. Raises VaultLocked, InvalidLabels."""
        wanted = check_labels(labels)
        if wanted:
            part = await self._labels.part(tenant, wanted, limit=limit, after=after)
            return Page(await self._carrying(tenant, wanted, part), part.end)
        async with self._control.guard() as client:
            key = TenantKeys(self._prefix, tenant).sessions
            part = await part_of(client, key, limit=limit, after=after)
        listed = [(place.id.encode(), place.created_at) for place in part.places]
        return Page(await self._listed(tenant, listed), part.end)

    async def delete(self, session_id: str, *, tenant: str | None = None) -> None:
        """Drop a session and everything that no other session reaches. Raises NotFound."""
        session = await self.record(session_id, tenant=tenant)
        lineage = lineage_of(session_id)
        keys = LineageKeys(self._prefix, lineage)
        stored = await self._control.run(
            "delete",
            [
                keys.session(session_id),
                keys.lease(session_id),
                keys.refs,
                keys.dead,
                keys.sessions,
                keys.attachments(session_id),
                keys.feed(session_id),
                keys.usage,
                keys.tree,
            ],
            session_id,
        )
        async with self._control.guard() as client:
            await client.zrem(TenantKeys(self._prefix, session.body.tenant).sessions, session_id)
        await delete_notes(self._control, self._prefix, session.body.tenant, session_id)
        await self._uses.forget(session.body.tenant, session_id)
        for labels in (session.labels, labels_of(stored)):  # they may have been replaced meanwhile
            await self._labels.forget(session.body.tenant, session_id, labels)
        await garbage.unwind(self._control, self._prefix, lineage)
        await self._quotas.mirror(session.body.tenant, [lineage])

    async def _listed(self, tenant: str, listed: Sequence[tuple[bytes, float]]) -> list[Session]:
        """Those of a part of the tenant's list that are made; others are taken off it in time."""
        keys = TenantKeys(self._prefix, tenant)
        rows = await self._read(raw.decode() for raw, _ in listed)
        unmade = [
            raw
            for (raw, created_at), row in zip(listed, rows, strict=True)
            if row is None and created_at < time.time() - UNMADE
        ]
        if unmade:
            async with self._control.guard() as client:
                await client.zrem(keys.sessions, *unmade)
                await client.zrem(keys.used, *unmade)
        return [await self.opened(row) for row in rows if isinstance(row, Session)]

    async def _carrying(self, tenant: str, wanted: Mapping[str, str], part: Part) -> list[Session]:
        """Those of a part of the list of some labels that carry them."""
        ids = [place.id for place in part.places]
        rows = dict(zip(ids, await self._read(ids), strict=True))
        written = {one: row.labels if isinstance(row, Session) else {} for one, row in rows.items()}
        carrying = await self._labels.carrying(tenant, wanted, written)
        found = (rows[one] for one in carrying)
        return [await self.opened(row) for row in found if isinstance(row, Session)]

    async def _made(self, session_id: str, *, tenant: str | None = None) -> Session | None:
        """None for one that is not made. Raises ForeignTenant."""
        try:
            return await self.get(session_id, tenant=tenant)
        except ForeignTenant:
            raise
        except NotFound:
            return None

    async def _read(self, session_ids: Iterable[str]) -> list[Session | CorruptObject | None]:
        """As they are stored, None for what is not there; in one round trip to each server. One
        that cannot be read is logged, and keeps nobody from the others."""
        asked = list(session_ids)
        found: list[Session | CorruptObject | None] = []
        for one, row in zip(asked, await self._rows(asked), strict=True):
            try:
                found.append(None if row[0] is None else session_of(one, row))
            except CorruptObject as error:
                logger.error("left out of a list: %s", error)
                found.append(error)
        return found

    async def _rows(self, session_ids: Sequence[str]) -> list[Any]:
        return await self._control.exchange([self._reading(one) for one in session_ids])

    def _reading(self, session_id: str) -> Command:
        """Asks for what `session_of` takes."""
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        return ("HMGET", keys.session(session_id), *_FIELDS)

    async def _add(
        self,
        session: Session,
        seals: Seals | None = None,
        *,
        root: bool = False,
        beside: Sequence[Command] = (),
    ) -> Session:
        """Listed first and then made: after a crash between the two nothing holds a snapshot that
        no list shows. Listing the lineage again undoes a `recover` that found it empty meanwhile.

        The tenant is looked at last: who deletes it may have looked for its sessions before this
        one was listed.
        """
        body, head = session.body, session.head
        lineage = lineage_of(body.id)
        keys, beside_it = LineageKeys(self._prefix, lineage), TenantKeys(self._prefix, body.tenant)
        listing = ("SADD", f"{self._prefix}:lineages", lineage)
        labelling = self._labels.enlisting(body.tenant, body.id, session.labels)
        making = Script(
            "fork",
            [
                keys.snapshot(head or ""),
                keys.refs,
                keys.session(body.id),
                keys.sessions,
                keys.seed,
                keys.tree,
            ],
            [
                head or "",
                body.id,
                self._lineages.sealed(body, seals).pack(),
                LabelSet(labels=session.labels).pack(),
                b"" if seals is None else seals.seed,
                int(root),
                body.created_at,
            ],
        )
        room = await self._quotas.reserve(body.tenant, sessions=1)
        await self._control.exchange(
            [
                *beside,
                listing,
                ("ZADD", beside_it.sessions, body.created_at, body.id),
                self._uses.noting(body.tenant, body.id),
                *labelling,
            ]
        )
        await self._quotas.release(room)  # what is listed is counted
        outcome, *_, tenant, made = await self._control.exchange(
            [making],
            [listing, *labelling],
            [self._tenants.reading(body.tenant), self._reading(body.id)],
        )
        if outcome != b"ok":
            async with self._control.guard() as client:
                await client.zrem(beside_it.sessions, body.id)
            await self._uses.forget(body.tenant, body.id)
            await self._labels.forget(body.tenant, body.id, session.labels)
            if outcome == b"no_root":
                raise InvalidId(f"{body.id} is of a lineage that has its first session already.")
            gone = f"snapshot {head}" if head else f"session {body.forked_from}"
            raise NotFound(f"no {gone}.")
        try:
            self._tenants.verify(body.tenant, body.tenant_id, tenant)
        except TenantDeleted:
            with contextlib.suppress(NotFound):  # `recover` was faster
                await self.delete(body.id)
            raise
        return session_of(body.id, made)
