"""What everything in a lineage shares: its tenant, its economy class, and its key.

Token log and meta of an encrypted tenant are sealed under the lineage's key, each for its own
place in the store. Records go around with their meta sealed as they are stored; who shows them to
a caller opens them, and raises VaultLocked without the master key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import msgpack

from state_store.cipher import LineageKey, open_value, seal_value
from state_store.connection import Control
from state_store.errors import CorruptObject, NotFound
from state_store.layout import LineageKeys, lineage_of
from state_store.records import SessionBody, Snapshot
from state_store.tenants import Tenants

_KNOWN = 4096
_Record = TypeVar("_Record", SessionBody, Snapshot)


@dataclass(frozen=True)
class Lineage:
    """Never changes: every session and snapshot in it says the same."""

    id: str
    tenant: str
    tenant_id: str
    economy: str
    encrypted: bool

    @classmethod
    def of(cls, record: SessionBody | Snapshot) -> Self:
        return cls(
            lineage_of(record.id),
            record.tenant,
            record.tenant_id,
            record.economy,
            record.encrypted,
        )


@dataclass(frozen=True)
class Seals:
    """Seals and opens the control values of one encrypted lineage."""

    seed: bytes = field(repr=False)
    key: LineageKey
    digest_key: bytes = field(repr=False)

    def digest(self, tokens: bytes) -> bytes:
        """What stands for tokens in a snapshot's id."""
        return hmac.digest(self.digest_key, tokens, "sha256")

    def seal(self, value: bytes, place: str) -> bytes:
        """place: key of the value in the store; it opens only there"""
        return seal_value(value, self.key, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """Raises CorruptObject."""
        return open_value(sealed, self.key, place.encode())


class Lineages:
    """Lineages and their keys, read once."""

    def __init__(self, control: Control, prefix: str, tenants: Tenants) -> None:
        self._control = control
        self._prefix = prefix
        self._tenants = tenants
        self._of: OrderedDict[str, Lineage] = OrderedDict()
        self._seals: OrderedDict[str, Seals] = OrderedDict()

    async def of_session(self, session_id: str) -> Lineage:
        """Raises NotFound."""
        known = self._of.get(lineage_of(session_id))
        if known is None:
            keys = LineageKeys(self._prefix, lineage_of(session_id))
            async with self._control.guard() as client:
                stored = await client.hget(keys.session(session_id), "body")
            if stored is None:
                raise NotFound(f"no session {session_id}.")
            known = Lineage.of(SessionBody.unpack(stored))
            _hold(self._of, known.id, known)
        return known

    async def seals(self, lineage: Lineage) -> Seals | None:
        """None if it is stored in the clear. Raises VaultLocked, InvalidKey, TenantDeleted, and
        CorruptObject when the lineage's seed is gone."""
        if not lineage.encrypted:
            return None
        known = self._seals.get(lineage.id)
        if known is None:
            async with self._control.guard() as client:
                seed = await client.get(LineageKeys(self._prefix, lineage.id).seed)
            if seed is None:
                raise CorruptObject(
                    f"the seed of lineage {lineage.id} is gone: its sessions were deleted, or the "
                    "store has lost it. Its token log and meta cannot be read any more."
                )
            known = await self.seals_under(lineage, seed)
            _hold(self._seals, lineage.id, known)
        return known

    async def seals_under(self, lineage: Lineage, seed: bytes) -> Seals:
        """Of a seed that may never be the lineage's, so they are not remembered.

        Raises VaultLocked, InvalidKey, TenantDeleted.
        """
        tenant = await self._tenants.same(lineage.tenant, lineage.tenant_id)
        key = self._tenants.key(tenant)
        if key is None:
            raise CorruptObject(f"lineage {lineage.id} is encrypted, and its tenant has no key.")
        return Seals(seed, key.lineage_key(seed), key.token_digest_key(seed))

    async def opened(self, record: _Record) -> _Record:
        """The record as callers know it. Raises as `seals`, and CorruptObject."""
        seals = await self.seals(Lineage.of(record))
        if seals is None:
            return record
        meta = msgpack.unpackb(seals.open(record.sealed_meta, _place(self._prefix, record)))
        return record.model_copy(update={"meta": meta, "sealed_meta": b""})

    def sealed(self, record: _Record, seals: Seals | None) -> _Record:
        """The record as it is stored."""
        if seals is None:
            return record
        sealed = seals.seal(msgpack.packb(record.meta), _place(self._prefix, record))
        return record.model_copy(update={"meta": {}, "sealed_meta": sealed})


def tokens_digest(tokens: bytes, seals: Seals | None) -> bytes:
    """What stands for new tokens in a snapshot's id."""
    return hashlib.sha256(tokens).digest() if seals is None else seals.digest(tokens)


def _place(prefix: str, record: SessionBody | Snapshot) -> str:
    keys = LineageKeys(prefix, lineage_of(record.id))
    if isinstance(record, SessionBody):
        return keys.session(record.id)
    return keys.snapshot(record.id)


def _hold(held: OrderedDict[str, Any], lineage_id: str, value: Any) -> None:
    held[lineage_id] = value
    while len(held) > _KNOWN:
        held.popitem(last=False)
