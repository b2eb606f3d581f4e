"""Keys: a master key outside the store, under it one key for each tenant, and what follows from it.

    master key      32 bytes in a file or an environment variable; never in the store
    └── tenant key  random; in the tenant's record, wrapped by the master key (RFC 3394)
        ├── object key   HKDF(tenant key, the object's seed)     pages and states
        ├── lineage key  HKDF(tenant key, the lineage's seed)    token log and meta
        ├── value key    HKDF(tenant key, its place)             notes and items
        └── page salt    HKDF(tenant key)                        names of pages

A seed is random bytes in the store beside what it is for. To delete a seed is to destroy the
ciphertext wherever there are copies of it, in archives, exports and backups of those: session
delete removes the seeds of what nothing else holds. To delete a tenant's record does the same for
all that the tenant ever stored.

How far that reaches depends on copies of the seeds themselves. Redis keeps deleted values in its
append-only file until it is rewritten (BGREWRITEAOF), in older RDB files and in replicas that lag;
backups of those keep them as long as the backup is kept. Until then they, the ciphertext and the
*master key* together would still give the plaintext; without the master key nothing does. Hence
keep master keys out of backups of the store, and to be rid of everything at once, including what
backups of the store hold, destroy the master key.

Not hidden from who reads the store: sizes, counts and times, labels, ids, which snapshots share
pages, and that two equal histories of one tenant are equal. Names of pages come from a secret salt
and cannot be guessed from text.

HKDF is RFC 5869 with SHA-256.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from state_store.cipher import (
    KEY_BYTES,
    KEY_ID_BYTES,
    LineageKey,
    ObjectKey,
    Secret,
    ValueKey,
)
from state_store.errors import InvalidKey, VaultLocked
from state_store.layout import ObjectRef

OBJECT_SEED_BYTES = KEY_ID_BYTES + 16
LINEAGE_SEED_BYTES = 16

_VERSION = b"\x01"
_MASTER_ID_BYTES = 8
_WRAPPED_BYTES = len(_VERSION) + _MASTER_ID_BYTES + KEY_BYTES + 8
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_HOW_TO_MAKE = "32 bytes as hex or base64, such as `openssl rand -base64 32` prints"


class MasterKey(Secret):
    """`id`: 16 hex digits by which a wrapped key says which master key it needs; not secret."""

    __slots__ = ("id",)

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.id = derive(secret, salt=b"", info=_info("master key id"), size=_MASTER_ID_BYTES).hex()

    def __repr__(self) -> str:
        return f"<MasterKey {self.id}>"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads 32 bytes as hex or base64. Raises InvalidKey, without the text, for others."""
        text = text.strip()
        if _HEX.fullmatch(text):
            return cls(bytes.fromhex(text))
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        try:
            secret = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        except ValueError:
            raise InvalidKey(f"a master key is no such text; give {_HOW_TO_MAKE}.") from None
        if len(secret) != KEY_BYTES:
            raise InvalidKey(f"a master key has {len(secret)} bytes; give {_HOW_TO_MAKE}.")
        return cls(secret)


class TenantKey(Secret):
    """All of one tenant's keys are derived from this one."""

    __slots__ = ()

    def page_salt(self) -> str:
        """Salt of the names of the tenant's pages, 64 hex digits; secret like a key."""
        return derive(self.reveal(), salt=b"", info=_info("page salt")).hex()

    def lineage_key(self, seed: bytes) -> LineageKey:
        """seed: 16 bytes, see `new_lineage_seed`. Raises InvalidKey for another length."""
        if len(seed) != LINEAGE_SEED_BYTES:
            raise InvalidKey(
                f"a lineage's seed has {len(seed)} bytes, not {LINEAGE_SEED_BYTES}: it is damaged, "
                "and the lineage's token log cannot be read without it."
            )
        return LineageKey(derive(self.reveal(), salt=seed, info=_info("lineage")))

    def token_digest_key(self, seed: bytes) -> bytes:
        """Key of the digests of a lineage's tokens that snapshot ids are made of, 32 bytes.

        Ids are not hidden; unkeyed, they would let who reads them test a guess at a transcript.
        """
        return derive(self.reveal(), salt=seed, info=_info("token digest"))

    def value_key(self, place: str) -> ValueKey:
        """place: key in the store of what is the tenant's and no lineage's"""
        return ValueKey(derive(self.reveal(), salt=place.encode(), info=_info("value")))

    def name_digest_key(self) -> bytes:
        """Key of the digests that stand for names of such places, 32 bytes.

        Some names are digests of what was said; unkeyed, they would let who reads them test a
        guess.
        """
        return derive(self.reveal(), salt=b"", info=_info("names"))

    def object_key(self, seed: bytes, ref: ObjectRef, fingerprint_id: str) -> ObjectKey:
        """seed: 20 bytes, see `new_object_seed`. Raises InvalidKey for another length."""
        if len(seed) != OBJECT_SEED_BYTES:
            raise InvalidKey(
                f"the seed of {ref.kind} {ref.tag} has {len(seed)} bytes, not {OBJECT_SEED_BYTES}: "
                "it is damaged, and the object cannot be read without it."
            )
        info = _info("object", ref.kind, fingerprint_id, ref.tag)
        secret = derive(self.reveal(), salt=seed[KEY_ID_BYTES:], info=info)
        return ObjectKey(secret, seed[:KEY_ID_BYTES])


class Vault:
    """Makes and opens tenant keys. Without a master key it is locked."""

    def __init__(self, master_keys: Sequence[MasterKey] = ()) -> None:
        """master_keys: the first wraps; all open, so that older ones can be phased out."""
        self._current = master_keys[0] if master_keys else None
        self._keys = {key.id: key for key in master_keys}

    @classmethod
    def load(cls, source: str) -> Self:
        """Read master keys, one a line and the newest first.

        source: `file:<path>` or `env:<variable>`

        Raises VaultLocked when nothing is there, InvalidKey for what is not a key.
        """
        scheme, _, name = source.partition(":")
        if scheme == "file":
            try:
                text = Path(name).read_text(encoding="ascii")
            except UnicodeDecodeError:
                raise InvalidKey(f"{source} is not text; give {_HOW_TO_MAKE}.") from None
            except OSError as error:
                raise VaultLocked(
                    f"the master key cannot be read from {source}: {error.strerror}."
                ) from error
        elif scheme == "env":
            text = os.environ.get(name, "")
        else:  # what stands here instead may be the key itself
            raise InvalidKey("a master key's source is `file:<path>` or `env:<variable>`.")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise VaultLocked(f"there is no master key in {source}; put one there: {_HOW_TO_MAKE}.")
        try:
            return cls([MasterKey.parse(line) for line in lines])
        except InvalidKey as error:
            raise InvalidKey(f"{source}: {error}") from None

    def __repr__(self) -> str:
        return f"<Vault {' '.join(self._keys) or 'locked'}>"

    @property
    def master_key_ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    @property
    def locked(self) -> bool:
        return self._current is None

    def new_tenant_key(self, tenant: str) -> bytes:
        """A new random key for the record of `tenant`, wrapped. Raises VaultLocked."""
        return self._wrap(secrets.token_bytes(KEY_BYTES), tenant)

    def open(self, wrapped: bytes, tenant: str) -> TenantKey:
        """The key of `tenant` from its record.

        Raises VaultLocked when its master key is not here, InvalidKey when it is damaged or was
        made for another tenant.
        """
        master_id = master_key_id(wrapped)
        master = self._keys.get(master_id)
        if master is None:
            raise VaultLocked(
                f"tenant {tenant} is encrypted under master key {master_id}, and this process has "
                f"{' '.join(self._keys) or 'none'}; give it that one."
            )
        try:
            secret = unwrap_key(_wrapping_key(master, tenant), wrapped[1 + _MASTER_ID_BYTES :])
        except InvalidUnwrap:
            raise InvalidKey(
                f"the wrapped key of tenant {tenant} is damaged or another tenant's. Restore the "
                "tenant's record; without its key nothing of the tenant can be read."
            ) from None
        return TenantKey(secret)

    def rewrap(self, wrapped: bytes, tenant: str) -> bytes:
        """The same tenant key, wrapped by the newest master key; as it is if it already was.

        Raises like `open`. When all tenants' records are rewrapped, older master keys can go.
        """
        key = self.open(wrapped, tenant)
        if self._current is not None and master_key_id(wrapped) == self._current.id:
            return wrapped
        return self._wrap(key.reveal(), tenant)

    def _wrap(self, secret: bytes, tenant: str) -> bytes:
        if self._current is None:
            raise VaultLocked(
                f"tenant {tenant} is to be encrypted, and this process has no master key; give "
                f"it one: {_HOW_TO_MAKE}."
            )
        wrapped = wrap_key(_wrapping_key(self._current, tenant), secret)
        return _VERSION + bytes.fromhex(self._current.id) + wrapped


def master_key_id(wrapped: bytes) -> str:
    """Id of the master key that a tenant's key is wrapped by. Raises InvalidKey."""
    if len(wrapped) != _WRAPPED_BYTES or wrapped[:1] != _VERSION:
        raise InvalidKey(
            f"a tenant's wrapped key is malformed: {len(wrapped)} bytes. Restore the tenant's "
            "record; without its key nothing of the tenant can be read."
        )
    return wrapped[1 : 1 + _MASTER_ID_BYTES].hex()


def new_object_seed() -> bytes:
    """20 random bytes: 4 that name the seed and stand in headers, 16 that the key comes from.

    They are apart so that a script in the store can tell whether an object was encrypted under
    the seed that lies beside it, and so that headers say nothing about the rest.
    """
    return secrets.token_bytes(OBJECT_SEED_BYTES)


def new_lineage_seed() -> bytes:
    return secrets.token_bytes(LINEAGE_SEED_BYTES)


def derive(secret: bytes, *, salt: bytes, info: bytes, size: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869) of `secret`, `size` bytes."""
    return HKDF(algorithm=hashes.SHA256(), length=size, salt=salt, info=info).derive(secret)


def wrap_key(wrapping_key: bytes, secret: bytes) -> bytes:
    """AES key wrap (RFC 3394), 8 bytes longer; deterministic, so it needs no nonce to be unique."""
    return aes_key_wrap(wrapping_key, secret)


def unwrap_key(wrapping_key: bytes, wrapped: bytes) -> bytes:
    """Raises InvalidUnwrap for another key's, or a damaged one."""
    return aes_key_unwrap(wrapping_key, wrapped)


def _wrapping_key(master: MasterKey, tenant: str) -> bytes:
    """Of one tenant: else who can write to the store could give a tenant another's key."""
    return derive(master.reveal(), salt=b"", info=_info("tenant key of", tenant))


def _info(*parts: str) -> bytes:
    """HKDF's context; none of the parts has a zero byte, so that no two contexts are equal."""
    return b"\0".join(part.encode() for part in ("torpor 1", *parts))
