"""Notes: small values of a tenant's that expire, by name.

For what callers must find again without walking sessions: which snapshot a conversation led to,
what a request was answered. They are no part of any session, and nothing relies on them.
"""

from __future__ import annotations

from collections.abc import Sequence

from state_store.connection import Control
from state_store.durations import milliseconds
from state_store.errors import TenantDeleted
from state_store.layout import TenantKeys
from state_store.lineages import Lineage, Lineages
from state_store.records import Session
from state_store.tenants import Tenants


class Notes:
    """See `StateStore.notes`. Names and values of an encrypted tenant are sealed.

    Every method raises InvalidTenant, VaultLocked, InvalidKey. Of a tenant who was deleted there
    are no notes.
    """

    def __init__(self, control: Control, prefix: str, tenants: Tenants) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants = tenants

    async def put(self, tenant: str, name: str, value: bytes, *, ttl: float) -> None:
        """ttl: seconds that the note lives. Raises InvalidArgument, TenantDeleted."""
        await self._put(tenant, name, value, ttl)

    async def put_new(self, tenant: str, name: str, value: bytes, *, ttl: float) -> bytes | None:
        """Put a note unless there is one of that name, which is returned then. Raises
        InvalidArgument, TenantDeleted, CorruptObject."""
        return await self._put(tenant, name, value, ttl, "NX")

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
        async with self._control.guard() as client:
            await client.delete(self._key(tenant, seals.name(name)))

    async def _put(
        self, tenant: str, name: str, value: bytes, ttl: float, how: str = ""
    ) -> bytes | None:
        lives = milliseconds(ttl)
        seals = await self._tenants.seals(tenant)
        while True:
            key = self._key(tenant, seals.name(name))
            is_same, *there = await self._control.run(
                "put_note",
                [key, TenantKeys(self._prefix, tenant).record],
                *(seals.record, seals.seal(value, key), lives, how),
            )
            if is_same:
                return seals.open(there[0], key) if there else None
            seals = await self._tenants.seals(tenant, anew=True)

    def _key(self, tenant: str, name: str) -> str:
        return TenantKeys(self._prefix, tenant).note(name)


class SessionNotes:
    """Notes on one session: sealed as its token log is, if its tenant is encrypted, and deleted
    with it. Every method raises VaultLocked."""

    def __init__(self, control: Control, prefix: str, lineages: Lineages) -> None:
        self._control = control
        self._prefix = prefix
        self._lineages = lineages

    async def put(self, session: Session, name: str, value: bytes, *, ttl: float) -> None:
        """ttl: seconds that the note lives. Raises InvalidArgument."""
        seals = await self._lineages.seals(Lineage.of(session.body))
        place = _place(session, name)
        sealed = value if seals is None else seals.seal(value, place)
        keys = self._keys(session)
        await self._control.run(
            "note", [keys.note(place), keys.notes_on(session.id)], sealed, milliseconds(ttl), place
        )

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
        await self._control.run(
            "drop_note", [keys.note(place), keys.notes_on(session.id)], beginning, place
        )

    def _keys(self, session: Session) -> TenantKeys:
        return TenantKeys(self._prefix, session.body.tenant)


async def delete_notes(control: Control, prefix: str, tenant: str, session_id: str) -> None:
    """All that were put on a session."""
    keys = TenantKeys(prefix, tenant)
    async with control.guard() as client:
        names = await client.zrange(keys.notes_on(session_id), 0, -1)
        if names:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.delete(keys.note(name.decode()))
            pipeline.delete(keys.notes_on(session_id))
            await pipeline.execute()


def _place(session: Session, name: str) -> str:
    return f"{name}:{session.id}"
