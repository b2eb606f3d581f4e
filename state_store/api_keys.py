"""API keys: who may use the service as which tenant. Only their digests are stored.

What owners send is in `key_text.py`. The secret in it has 256 random bits, so one SHA-256 of it is
enough: there is no guessing to slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgpack

from state_store.connection import Control
from state_store.errors import InvalidKeyLimits, InvalidTenant, NotFound
from state_store.key_text import KeyText, read_key
from state_store.layout import OperatorKeys, TenantKeys

TenantRole = Literal["use", "read", "admin"]
Role = Literal[TenantRole, "operator"]
OPERATORS = "@operators"
"""In a tenant's place, for the keys of who runs the service. No tenant can be called so."""


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key; its secret is not.

    tenant:     or OPERATORS
    role:       `read` sees the tenant's sessions, `use` changes them too, `admin` also makes and
                revokes keys; `operator` sees the service's counts, and changes tenants' quotas, and
                sees no session
    name:       what its maker calls it
    created_at, expires_at: seconds since 1970; None: it does not expire
    per_minute: requests that it may make in a minute, None: any number
    """

    tenant: str
    id: str
    role: Role
    name: str
    created_at: float
    expires_at: float | None = None
    per_minute: int | None = None

    def is_over(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True)
class KeyLimits:
    """What a key is to be good for. expires_in: seconds"""

    role: Role
    expires_in: float | None
    per_minute: int | None

    def require_for(self, tenant: str) -> None:
        """Raises InvalidKeyLimits for what no key of the tenant, or of OPERATORS, can have."""
        if (tenant == OPERATORS) != (self.role == "operator"):
            raise InvalidKeyLimits(
                f"a key of role {self.role} cannot be one of {tenant}; none was made. Keys of "
                "operators are no tenant's, and tenants' keys are of the other roles."
            )
        if self.expires_in is not None and not 0 < self.expires_in < math.inf:
            raise InvalidKeyLimits(
                f"a key cannot expire in {self.expires_in:g} seconds; none was made. Give it a "
                "time above 0, or none if it is not to expire."
            )
        if self.per_minute is not None and self.per_minute < 1:
            raise InvalidKeyLimits(
                f"a key cannot make {self.per_minute} requests a minute; none was made. Let it "
                "make 1 at least, or any number."
            )


class ApiKeys:
    """See `StateStore.keys`."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def create(
        self,
        tenant: str,
        *,
        role: Role = "use",
        name: str = "",
        expires_in: float | None = None,
        per_minute: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and the text that its owner sends: that is not stored, and cannot be had
        again. tenant: OPERATORS for role `operator`, and only for it; expires_in: seconds. Raises
        InvalidTenant, InvalidKeyLimits."""
        KeyLimits(role, expires_in, per_minute).require_for(tenant)
        now, secret = time.time(), secrets.token_hex(32)
        key = ApiKey(
            tenant,
            secrets.token_hex(6),
            role,
            name,
            now,
            None if expires_in is None else now + expires_in,
            per_minute,
        )
        async with self._control.guard() as client:
            await client.hset(self._of(tenant).api_keys, key.id, _packed(key, _digest(secret)))
        return key, str(KeyText(tenant, key.id, secret))

    async def of(self, tenant: str) -> list[ApiKey]:
        """A tenant's keys, oldest first, expired ones too. Raises InvalidTenant."""
        async with self._control.guard() as client:
            rows = await client.hgetall(self._of(tenant).api_keys)
        keys = [_unpacked(tenant, key_id.decode(), row)[0] for key_id, row in rows.items()]
        return sorted(keys, key=lambda key: key.created_at)

    async def revoke(self, tenant: str, key_id: str) -> None:
        """Raises NotFound."""
        async with self._control.guard() as client:
            if not await client.hdel(self._of(tenant).api_keys, key_id):
                raise NotFound(f"{tenant} has no key {key_id}.")

    async def verified(self, text: str) -> ApiKey | None:
        """The key that `text` is; None for one that is not (or no longer) valid."""
        sent = read_key(text)
        if sent is None:
            return None
        tenant, key_id, secret = sent
        try:
            name = self._of(tenant).api_keys
        except InvalidTenant:
            return None
        async with self._control.guard() as client:
            row = await client.hget(name, key_id)
        if row is None:
            return None
        key, digest = _unpacked(tenant, key_id, row)
        if not hmac.compare_digest(digest, _digest(secret)) or key.is_over(time.time()):
            return None
        return key

    async def spend(self, key: ApiKey) -> float | None:
        """Count one request of a key; if it had made all that it may, the seconds until it may
        again."""
        if key.per_minute is None:
            return None
        minute, second = divmod(time.time(), 60.0)
        counter = self._of(key.tenant).spent(key.id, int(minute))
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.incr(counter)
            pipeline.expire(counter, 120)
            made, _ = await pipeline.execute()
        return None if made <= key.per_minute else 60.0 - second

    def _of(self, tenant: str) -> TenantKeys | OperatorKeys:
        if tenant == OPERATORS:
            return OperatorKeys(self._prefix)
        return TenantKeys(self._prefix, tenant)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _packed(key: ApiKey, digest: bytes) -> bytes:
    row: bytes = msgpack.packb(
        [1, digest, key.role, key.name, key.created_at, key.expires_at, key.per_minute]
    )
    return row


def _unpacked(tenant: str, key_id: str, row: bytes) -> tuple[ApiKey, bytes]:
    fields: list[Any] = msgpack.unpackb(row)
    _, digest, role, name, created_at, expires_at, per_minute = fields
    return ApiKey(tenant, key_id, role, name, created_at, expires_at, per_minute), digest
