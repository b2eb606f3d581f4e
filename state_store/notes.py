"""Notes: small values of a tenant's that expire, by name.

For what callers must find again without walking sessions: which snapshot a conversation led to,
what a request was answered. They are no part of any session, and nothing relies on them. Their
bytes, as they are stored and with their names, count toward the tenant's quota.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from state_store.connection import Call, Control, Script
from state_store.durations import milliseconds
from state_store.errors import TenantDeleted
from state_store.layout import TenantKeys
from state_store.lineages import Lineage, Lineages
from state_store.quotas import Quotas
from state_store.records import Session
from state_store.tenant_seals import TenantSeals
from state_store.tenants import Tenants


class Notes:
    """See `StateStore.notes`. Names and values of an encrypted tenant are sealed.

    Every method raises InvalidTenant, VaultLocked, InvalidKey. Of a tenant who was deleted there
    are no notes.
    """

    def __init__(self, control: Control, prefix: str, tenants: Tenants, quotas: Quotas) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants = tenants
        self._quotas = quotas

    async def put(
        self, tenant: str, name: str, value: bytes, *, ttl: float, happened: bool = False
    ) -> None:
        """ttl: seconds that the note lives; happened: what it says has, so it is put however full
        the quota is. Raises InvalidArgument, TenantDeleted, QuotaExceeded."""
        await self._put(tenant, name, value, ttl, happened, "any")

    async def put_new(
        self, tenant: str, name: str, value: bytes, *, ttl: float, happened: bool = False
    ) -> bytes | None:
        """Put a note unless there is one of that name, which is returned then. Raises as `put`, and
        CorruptObject."""
        return await self._put(tenant, name, value, ttl, happened, "new")

    async def put_instead(
        self,
        tenant: str,
        name: str,
        value: bytes,
        *,
        of: bytes,
        ttl: float,
        happened: bool = False,
    ) -> bytes | None:
        """Put a note where there is `of`, or none any more; another one stays, and is returned.
        Raises as `put_new`."""
        return await self._put(tenant, name, value, ttl, happened, "same", of)

    async def get(self, tenant: str, names: Sequence[str]) -> list[bytes | None]:
        """In the order of `names`; None for one that is not there. Raises CorruptObject."""
        if not names:
            return []
        try:
            seals = await self._tenants.seals(tenant)
        except TenantDeleted:
            return [None] * len(names)
        keys = [self._key(tenant, seals.name(name)) for name in names]
        async with self._control.guard() as client:
            found: list[bytes | None] = await client.mget(keys)
        return [
            None if one is None else seals.open(one, key)
            for key, one in zip(keys, found, strict=True)
        ]

    async def delete(self, tenant: str, name: str) -> None:
        try:
            seals = await self._tenants.seals(tenant)
        except TenantDeleted:
            return
        named = seals.name(name)
        taken = [self._key(tenant, named), *TenantKeys(self._prefix, tenant).places_of_notes]
        await self._control.run("drop_note", taken, "", named)

    async def _put(
        self,
        tenant: str,
        name: str,
        value: bytes,
        ttl: float,
        happened: bool,
        over: Literal["any", "new", "same"],
        before: bytes = b"",
    ) -> bytes | None:
        """over: which note may be there; `before`, with "same"."""
        lives = milliseconds(ttl)
        seals = await self._tenants.seals(tenant)
        while True:
            named = seals.name(name)
            key, keys = self._key(tenant, named), TenantKeys(self._prefix, tenant)
            taken = [key, keys.record, keys.usage, keys.quota, keys.reserved, keys.notes]
            given = [seals.record, seals.seal(value, key), lives, named, int(happened), over]
            if over == "same":
                given.append(await self._as_stored(seals, key, before))
            is_same, *there = await self._quotas.within(tenant, Script("put_note", taken, given))
            if is_same:
                return seals.open(there[0], key) if there else None
            seals = await self._tenants.seals(tenant, anew=True)

    async def _as_stored(self, seals: TenantSeals, key: str, value: bytes) -> bytes:
        """What is in the store where `value` is. Raises CorruptObject."""
        if seals.key is None:
            return value
        async with self._control.guard() as client:
            found: bytes | None = await client.get(key)
        return found if found is not None and seals.open(found, key) == value else value

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).note(name)


class SessionNotes:
    """Notes on one session: sealed as its token log is, if its tenant is encrypted, and deleted
    with it. Every method raises VaultLocked."""

    def __init__(self, control: Control, prefix: str, lineages: Lineages, quotas: Quotas) -> None:
        self._control = control
        self._prefix = prefix
        self._lineages = lineages
        self._quotas = quotas

    async def put(
        self, session: Session, name: str, value: bytes, *, ttl: float, happened: bool = False
    ) -> None:
        """ttl, happened: see `Notes.put`. Raises InvalidArgument, QuotaExceeded."""
        seals = await self._lineages.seals(Lineage.of(session.body))
        place = _place(session, name)
        sealed = value if seals is None else seals.seal(value, place)
        keys = self._keys(session)
        taken = [keys.note(place), keys.notes_on(session.id)]
        taken += [keys.usage, keys.quota, keys.reserved, keys.notes]
        given = [sealed, milliseconds(ttl), place, int(happened)]
        await self._quotas.within(session.body.tenant, Script("note", taken, given))

    async def get(self, session: Session, name: str) -> bytes | None:
        """Raises CorruptObject."""
        (found,) = await self.get_all([session], name)
        return found

    async def get_all(self, sessions: Sequence[Session], name: str) -> list[bytes | None]:
        """The note of that name on each of a tenant's sessions. Raises CorruptObject."""
        if not sessions:
            return []
        places = [_place(session, name) for session in sessions]
        async with self._control.guard() as client:
            found = await client.mget([self._keys(sessions[0]).note(place) for place in places])
        opened: list[bytes | None] = []
        for session, place, note in zip(sessions, places, found, strict=True):
            seals = None if note is None else await self._lineages.seals(Lineage.of(session.body))
            opened.append(note if seals is None else seals.open(note, place))
        return opened

    async def delete(self, session: Session, name: str, *, beginning: bytes = b"") -> None:
        """beginning: a note that begins otherwise stays. Raises CorruptObject then."""
        seals = await self._lineages.seals(Lineage.of(session.body)) if beginning else None
        place, keys = _place(session, name), self._keys(session)
        if seals is not None:
            async with self._control.guard() as client:
                sealed = await client.get(keys.note(place))
            if sealed is None or not seals.open(sealed, place).startswith(beginning):
                return
            beginning = sealed  # all of it: nobody has put another one meanwhile
        taken = [keys.note(place), *keys.places_of_notes, keys.notes_on(session.id)]
        await self._control.run("drop_note", taken, beginning, place)

    def _keys(self, session: Session) -> TenantKeys:
        return TenantKeys(self._prefix, session.body.tenant)


async def delete_notes(control: Control, prefix: str, tenant: str, session_id: str) -> None:
    """All that were put on a session."""
    keys = TenantKeys(prefix, tenant)
    listed = keys.notes_on(session_id)
    async with control.guard() as client:
        names = [raw.decode() for raw in await client.zrange(listed, 0, -1)]
    calls: list[Call] = [
        ([keys.note(name), *keys.places_of_notes, listed], ["", name]) for name in names
    ]
    await control.run_many("drop_note", calls)


def _place(session: Session, name: str) -> str:
    return f"{name}:{session.id}"
