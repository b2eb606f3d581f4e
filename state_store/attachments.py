"""Attachments: values that a caller keeps with one session, by name, and that go with it.

For what belongs to a session and is no part of its history. Those of an encrypted tenant are
sealed, and shredded with the lineage. They count toward no quota, and are in no export.
"""

from __future__ import annotations

from state_store.connection import Control
from state_store.errors import NotFound
from state_store.layout import LineageKeys, lineage_of
from state_store.lineages import Lineage, Lineages, Seals
from state_store.records import Session


class Attachments:
    """See `StateStore.attachments`. Every method raises VaultLocked."""

    def __init__(self, control: Control, prefix: str, lineages: Lineages) -> None:
        self._control = control
        self._prefix = prefix
        self._lineages = lineages

    async def put(self, session: Session, name: str, value: bytes, *, ttl: float) -> None:
        """ttl: seconds that all of the session's live at least after this. Raises NotFound if the
        session is gone."""
        keys = LineageKeys(self._prefix, lineage_of(session.id))
        place = keys.attachments(session.id)
        seals = await self._seals(session)
        sealed = value if seals is None else seals.seal(value, f"{place}#{name}")
        outcome = await self._control.run(
            "attach", [keys.session(session.id), place], name, sealed, int(ttl * 1000)
        )
        if outcome == b"no_session":
            raise NotFound(f"no session {session.id}.")

    async def get(self, session: Session, name: str) -> bytes | None:
        """Raises CorruptObject."""
        place = self._place(session)
        async with self._control.guard() as client:
            found: bytes | None = await client.hget(place, name)
        if found is None:
            return None
        seals = await self._seals(session)
        return found if seals is None else seals.open(found, f"{place}#{name}")

    async def delete(self, session: Session, name: str) -> bool:
        """Whether there was one."""
        async with self._control.guard() as client:
            return bool(await client.hdel(self._place(session), name))

    async def _seals(self, session: Session) -> Seals | None:
        return await self._lineages.seals(Lineage.of(session.body))

    def _place(self, session: Session) -> str:
        return LineageKeys(self._prefix, lineage_of(session.id)).attachments(session.id)
