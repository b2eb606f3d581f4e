"""Sessions: named references to head snapshots, listed by tenant."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from state_store import garbage
from state_store.connection import Control
from state_store.errors import ForeignTenant, NotFound
from state_store.fingerprint import Fingerprint
from state_store.layout import (
    LineageKeys,
    TenantKeys,
    lineage_of,
    new_lineage,
    new_session_id,
)
from state_store.records import Session, SessionBody
from state_store.uses import Uses

_UNMADE = 60  # seconds after which a listed session without a record is not about to be made


class Sessions:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str, uses: Uses) -> None:
        self._control = control
        self._prefix = prefix
        self._uses = uses

    async def create(
        self,
        *,
        tenant: str,
        fingerprint: Fingerprint,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Session:
        """A new, empty session, the root of a new lineage."""
        lineage = new_lineage()
        body = SessionBody(
            id=new_session_id(lineage),
            tenant=tenant,
            fingerprint_id=fingerprint.id,
            labels=dict(labels or {}),
            meta=dict(meta or {}),
            forked_from=None,
            created_at=time.time(),
        )
        async with self._control.guard() as client:
            await client.set(
                f"{self._prefix}:fingerprint:{fingerprint.id}", fingerprint.model_dump_json()
            )
        return await self._add(body, head=None)

    async def fork(
        self,
        session_id: str,
        *,
        snapshot_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        tenant: str | None = None,
    ) -> Session:
        """A new session whose head is `snapshot_id` (the session's head if None).

        Copies nothing and costs the same at any length. Raises NotFound.
        """
        parent = await self.get(session_id, tenant=tenant)
        head = snapshot_id or parent.head
        if head is not None and lineage_of(head) != lineage_of(session_id):
            raise NotFound(f"snapshot {head} is not in the history of {session_id}.")
        return await self.branch(parent, head, labels=labels, meta=meta)

    async def branch(
        self,
        parent: Session,
        head: str | None,
        *,
        labels: Mapping[str, str] | None,
        meta: Mapping[str, Any] | None,
    ) -> Session:
        """A fork at exactly `head`, of the parent's lineage. Raises NotFound if it is gone."""
        body = parent.body.model_copy(
            update={
                "id": new_session_id(lineage_of(parent.id)),
                "labels": dict(labels or {}),
                "meta": dict(parent.body.meta if meta is None else meta),
                "forked_from": parent.id,
                "created_at": time.time(),
            }
        )
        return await self._add(body, head=head)

    async def get(self, session_id: str, *, tenant: str | None = None) -> Session:
        """Raises NotFound, ForeignTenant, InvalidId."""
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        async with self._control.guard() as client:
            stored, head = await client.hmget(keys.session(session_id), "body", "head")
        if stored is None:
            raise NotFound(f"no session {session_id}.")
        session = Session(SessionBody.unpack(stored), head.decode() or None)
        if tenant not in (None, session.body.tenant):
            raise ForeignTenant(f"no session {session_id} of tenant {tenant}.")
        return session

    async def check_tenant(self, any_id: str, tenant: str | None) -> None:
        """Raises ForeignTenant if the lineage of a session or snapshot is not of `tenant`.

        All sessions of a lineage are of one tenant. Raises NotFound if none is left, InvalidId.
        """
        if tenant is None:
            return
        keys = LineageKeys(self._prefix, lineage_of(any_id))
        stored = await self._control.run("owner", [keys.sessions], keys.session(""))
        if not stored:
            raise NotFound(f"no {any_id}.")
        if SessionBody.unpack(stored).tenant != tenant:
            raise ForeignTenant(f"no {any_id} of tenant {tenant}.")

    async def of_tenant(self, tenant: str) -> list[Session]:
        """All sessions of a tenant, newest first."""
        async with self._control.guard() as client:
            listed = await client.zrevrange(
                TenantKeys(self._prefix, tenant).sessions, 0, -1, withscores=True
            )
            pipeline = client.pipeline(transaction=False)
            for raw, _ in listed:
                keys = LineageKeys(self._prefix, lineage_of(raw.decode()))
                pipeline.hmget(keys.session(raw.decode()), "body", "head")
            rows = await pipeline.execute() if listed else []
            unmade = [
                raw
                for (raw, created_at), (stored, _) in zip(listed, rows, strict=True)
                if stored is None and created_at < time.time() - _UNMADE
            ]
            if unmade:
                keys_of_tenant = TenantKeys(self._prefix, tenant)
                await client.zrem(keys_of_tenant.sessions, *unmade)
                await client.zrem(keys_of_tenant.used, *unmade)
        return [
            Session(SessionBody.unpack(stored), head.decode() or None)
            for stored, head in rows
            if stored is not None
        ]

    async def delete(self, session_id: str, *, tenant: str | None = None) -> None:
        """Drop a session and everything that no other session reaches. Raises NotFound."""
        session = await self.get(session_id, tenant=tenant)
        lineage = lineage_of(session_id)
        keys = LineageKeys(self._prefix, lineage)
        await self._control.run(
            "delete",
            [
                keys.session(session_id),
                keys.lease(session_id),
                keys.refs,
                keys.dead,
                keys.sessions,
            ],
            session_id,
        )
        async with self._control.guard() as client:
            await client.zrem(TenantKeys(self._prefix, session.body.tenant).sessions, session_id)
        await self._uses.forget(session.body.tenant, session_id)
        await garbage.unwind(self._control, self._prefix, lineage)

    async def _add(self, body: SessionBody, head: str | None) -> Session:
        """Listed first and then made: after a crash between the two nothing holds a snapshot that
        no list shows. Listing the lineage again undoes a `recover` that found it empty meanwhile.
        """
        lineage = lineage_of(body.id)
        keys = LineageKeys(self._prefix, lineage)
        async with self._control.guard() as client:
            await client.sadd(f"{self._prefix}:lineages", lineage)
            await client.zadd(
                TenantKeys(self._prefix, body.tenant).sessions, {body.id: body.created_at}
            )
        await self._uses.note(body.tenant, body.id)
        outcome = await self._control.run(
            "fork",
            [keys.snapshot(head or ""), keys.refs, keys.session(body.id), keys.sessions],
            head or "",
            body.id,
            body.pack(),
        )
        async with self._control.guard() as client:
            if outcome != b"ok":
                await client.zrem(TenantKeys(self._prefix, body.tenant).sessions, body.id)
                await self._uses.forget(body.tenant, body.id)
                raise NotFound(f"no snapshot {head}.")
            await client.sadd(f"{self._prefix}:lineages", lineage)
        return Session(body, head)
