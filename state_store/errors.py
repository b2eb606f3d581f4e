"""Everything the state store raises.

StoreError
├── StoreUnavailable       no answer: not started, unreachable, cut off, too slow
│   └── InvalidUrl         not the URL of a store; connecting was not even tried
├── StoreRefused           the server answered with an error (no permission, wrong type, …)
│   └── StoreFull          it has no memory left; nothing was lost
├── NotFound               no such session or snapshot
│   ├── ForeignTenant      it belongs to another tenant
│   ├── TenantDeleted      its tenant was deleted
│   └── UnknownFingerprint no session or engine has made this state format known
├── InvalidId              not an id this store gave out
├── InvalidTenant          not a tenant's name
├── InvalidArgument        a number that nothing can have: a negative quota, a time of nothing
├── TenantExists           there is a tenant of this name already
├── InvalidDraft           a snapshot to commit contradicts itself or its parent
├── InvalidLabels          too many, too long or not text
├── InvalidDurability      not a durability level
├── QuotaExceeded          the tenant holds as much as it may; nothing was committed
├── LeaseHeld              another writer holds the session
├── LeaseLost              this writer's lease expired or was taken over; nothing was committed
├── HeadMoved              the session's head is not the expected parent; nothing was committed
├── ObjectsMissing         pages or states to commit are not in the store; nothing was committed
├── FilesMissing           files to keep or to commit with are not in the store; nothing was done
├── CorruptObject          a stored object fails its checksum or is not what its key names
│   ├── FingerprintMismatch  it is whole but belongs to another model or state format
│   └── UnknownEncoding    it is whole but stored in a way that this version cannot read
├── UnknownEconomy         not the name of an economy class
├── VaultLocked            the tenant is encrypted and its master key is not at hand
├── InvalidKey             key material is malformed, damaged or another tenant's
├── InvalidKeyLimits       an API key that could not be used, or that would not end as it should
├── DurabilityNotReached   committed in memory, but not confirmed at the wanted level
│   └── ServersChanged     a server restarted or gave up its place; some writes may be lost
├── ArchiveUnavailable     the archive does not answer; nothing was moved
├── ArchiveRefused         the archive cannot be used like this (URL, permission, disk full, …)
├── ArchivedObjectsLost    archived objects are gone or not whole; all others came back
├── InvalidPolicy          an archive policy contradicts itself or the server's configuration
├── ExportFailed           a session's export could not be written; no file was left
├── InvalidExport          a file is no session's export, or damaged; nothing was imported
├── BuffersExhausted       no buffers became free in time; nothing was moved
├── EngineSilent           an engine did not answer a command in time
│   └── EngineFailed       it answered that it could not do it
│       └── OtherProtocol  it speaks another version of the protocol; nothing was done
├── EngineIdTaken          another engine that lives is registered by this name
└── EmbeddedServerFailed   the embedded server could not be started or stopped unexpectedly
"""

from __future__ import annotations

from collections.abc import Sequence


class StoreError(Exception):
    """Base of the store's errors. The message says what happened, what was kept, what to do."""


class StoreUnavailable(StoreError):
    pass


class InvalidUrl(StoreUnavailable):
    pass


class StoreRefused(StoreError):
    pass


class StoreFull(StoreRefused):
    pass


class NotFound(StoreError):
    pass


class ForeignTenant(NotFound):
    pass


class TenantDeleted(NotFound):
    pass


class UnknownFingerprint(NotFound):
    pass


class InvalidId(StoreError):
    pass


class InvalidTenant(StoreError):
    pass


class InvalidArgument(StoreError, ValueError):
    pass


class TenantExists(StoreError):
    pass


class InvalidDraft(StoreError, ValueError):
    pass


class InvalidLabels(StoreError):
    pass


class QuotaExceeded(StoreError):
    pass


class InvalidDurability(StoreError):
    pass


class LeaseHeld(StoreError):
    """retry_after: seconds"""

    retry_after = 1.0


class LeaseLost(StoreError):
    pass


class HeadMoved(StoreError):
    pass


class ObjectsMissing(StoreError):
    """`missing` names the objects that are not in the store: (kind, page hash, part)."""

    def __init__(self, message: str, missing: Sequence[tuple[str, str, int]]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class FilesMissing(StoreError):
    """names: of the blobs that are missing, as they were asked for; none if the set itself is"""

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = list(names)


class CorruptObject(StoreError):
    pass


class FingerprintMismatch(CorruptObject):
    pass


class UnknownEncoding(CorruptObject):
    pass


class UnknownEconomy(StoreError):
    pass


class VaultLocked(StoreError):
    pass


class InvalidKey(StoreError):
    pass


class InvalidKeyLimits(StoreError):
    pass


class DurabilityNotReached(StoreError):
    """`reached` is the level that was confirmed instead, `memory` if none."""

    def __init__(self, message: str, reached: str = "memory") -> None:
        super().__init__(message)
        self.reached = reached


class ServersChanged(DurabilityNotReached):
    pass


class ArchiveUnavailable(StoreError):
    pass


class ArchiveRefused(StoreError):
    pass


class ArchivedObjectsLost(StoreError):
    """`lost` names the (kind, page hash, part) of what could not be brought back."""

    def __init__(self, message: str, lost: Sequence[tuple[str, str, int]]) -> None:
        super().__init__(message)
        self.lost = tuple(lost)


class InvalidPolicy(StoreError, ValueError):
    pass


class ExportFailed(StoreError):
    pass


class InvalidExport(StoreError):
    pass


class BuffersExhausted(StoreError):
    pass


class EngineIdTaken(StoreError):
    pass


class EngineSilent(StoreError):
    pass


class EngineFailed(EngineSilent):
    pass


class OtherProtocol(EngineFailed):
    pass


class EmbeddedServerFailed(StoreError):
    pass
