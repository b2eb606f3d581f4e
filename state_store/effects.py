"""Records of what agents have done to the world, kept as long as their sessions' lineage.

One hash for each lineage: all branches see what any of them has done. A record is the caller's own
bytes under a name; it is replaced only by who has seen what is there, so that of two who begin the
same thing one knows of the other. Records of an encrypted tenant are sealed, and shredded with the
lineage; their names are keyed, for they tell what was done. Their bytes, as they are stored, count
toward the quota of bytes: what would exceed it is refused before it happens, and what has happened
is recorded in any case.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from state_store.connection import Control
from state_store.errors import NotFound
from state_store.layout import LineageKeys, lineage_of
from state_store.lineages import Lineages, Seals
from state_store.quotas import Quotas

_NONCE = 16


@dataclass(frozen=True)
class EffectRecord:
    """value: the caller's bytes, None if there is no record; stored: as the store has it"""

    value: bytes | None
    stored: bytes


class Effects:
    """See `StateStore.effects`. Every method raises InvalidId, NotFound, VaultLocked.

    A session that was deleted a moment ago may still be looked at, and has no records.
    """

    def __init__(self, control: Control, prefix: str, lineages: Lineages, quotas: Quotas) -> None:
        self._control = control
        self._prefix = prefix
        self._lineages = lineages
        self._quotas = quotas

    async def get(self, session_id: str, name: str) -> EffectRecord:
        """Of the session's lineage. Raises CorruptObject."""
        (record,) = await self.get_many(session_id, [name])
        return record

    async def get_many(self, session_id: str, names: Sequence[str]) -> list[EffectRecord]:
        """As `get`, in one round trip."""
        if not names:
            return []
        seals = await self._seals(session_id)
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        fields = [_field(name, seals) for name in names]
        async with self._control.guard() as client:
            rows: list[bytes | None] = await client.hmget(keys.effects, fields)
        found = []
        for field, stored in zip(fields, rows, strict=True):
            if stored is None:
                found.append(EffectRecord(None, b""))
                continue
            opened = stored if seals is None else seals.open(stored, f"{keys.effects}#{field}")
            found.append(EffectRecord(opened[_NONCE:], stored))
        return found

    async def replace(
        self,
        session_id: str,
        name: str,
        seen: EffectRecord,
        value: bytes,
        *,
        happened: bool = False,
    ) -> bool:
        """False, and nothing is changed, if the record is not the one that was seen.

        happened: what it says has, so it is recorded however full the quota is. Raises
        QuotaExceeded otherwise.
        """
        lineage = await self._lineages.of_session(session_id)
        seals = await self._lineages.seals(lineage)
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        # Two who write the same are told apart, too.
        fresh = secrets.token_bytes(_NONCE) + value
        field = _field(name, seals)
        stored = fresh if seals is None else seals.seal(fresh, f"{keys.effects}#{field}")
        added = len(stored) - len(seen.stored)
        room = None
        if added > 0 and not happened:
            room = await self._quotas.reserve(lineage.tenant, bytes=added)
        try:
            outcome = await self._control.run(
                "swap_effects", [keys.session(session_id), keys.effects, keys.usage],
                *(field, seen.stored, stored),
            )  # fmt: skip
            if room is not None:
                await self._quotas.mirror(lineage.tenant, [lineage.id], room=room)
        finally:
            await self._quotas.release(room)
        if outcome == b"no_session":
            raise NotFound(f"no session {session_id}.")
        return bool(outcome == b"ok")

    async def all(self, session_id: str) -> list[bytes]:
        """Values of all records of the session's lineage. Raises CorruptObject."""
        seals = await self._seals(session_id)
        keys = LineageKeys(self._prefix, lineage_of(session_id))
        found = []
        async with self._control.guard() as client:
            for field, stored in (await client.hgetall(keys.effects)).items():
                place = f"{keys.effects}#{field.decode()}"
                found.append((stored if seals is None else seals.open(stored, place))[_NONCE:])
        return found

    async def _seals(self, session_id: str) -> Seals | None:
        return await self._lineages.seals(await self._lineages.of_session(session_id))


def _field(name: str, seals: Seals | None) -> str:
    """What stands for a name in the store."""
    return name if seals is None else seals.digest(name.encode()).hex()
