"""Names of everything in Redis.

Control records of one lineage (a root session and all its forks) carry the hash tag
`{<lineage>}`, so that they live in one slot and a commit is atomic. Objects (pages and states)
are tagged with their page hash instead: a cluster spreads them, and an object's pins sit beside
it.

    <prefix>:kv:<fingerprint>:<rank>:{<page hash>}     header + payload of one page
    <prefix>:state:<fingerprint>:<rank>:{<page hash>}  header + payload of one state
    <prefix>:pins:<kind>:<fingerprint>:{<page hash>}   set of commits that hold it, on all ranks
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Literal, get_args

from state_store.errors import InvalidId

Kind = Literal["kv", "state"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_ID = re.compile(r"(ses|snp)-([0-9a-f]{16})-([0-9a-f]{16,64})")


@dataclass(frozen=True)
class ObjectNames:
    """Keys of one engine rank's objects.

    fingerprint_id: 32 hex digits, see `state_store/fingerprint.py`
    """

    prefix: str
    fingerprint_id: str
    rank: int

    def key(self, kind: Kind, page_hash: str) -> bytes:
        return f"{self.prefix}:{kind}:{self.fingerprint_id}:{self.rank}:{{{page_hash}}}".encode()

    def pins_key(self, kind: Kind, page_hash: str) -> bytes:
        return f"{self.prefix}:pins:{kind}:{self.fingerprint_id}:{{{page_hash}}}".encode()


@dataclass(frozen=True)
class LineageKeys:
    """Keys of one lineage's control records."""

    prefix: str
    lineage: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{{self.lineage}}}:{name}"

    def session(self, session_id: str) -> str:
        return self._key(f"session:{session_id}")

    def lease(self, session_id: str) -> str:
        return self._key(f"lease:{session_id}")

    @property
    def snapshot_prefix(self) -> str:
        return self._key("snapshot:")

    def snapshot(self, snapshot_id: str) -> str:
        return self.snapshot_prefix + snapshot_id

    def tokens(self, snapshot_id: str) -> str:
        return self._key(f"tokens:{snapshot_id}")

    @property
    def sessions(self) -> str:
        """Set of the lineage's session ids."""
        return self._key("sessions")

    @property
    def refs(self) -> str:
        """Hash: snapshot id -> number of children and heads that hold it."""
        return self._key("refs")

    @property
    def dead(self) -> str:
        """Set of snapshots that nothing holds and that are being unwound."""
        return self._key("dead")

    @property
    def journals(self) -> str:
        """Hash: pin id -> what a commit in progress has pinned."""
        return self._key("journals")

    @property
    def aborted(self) -> str:
        """Hash: pin id -> what an abandoned commit has pinned and must still unpin."""
        return self._key("aborted")

    @property
    def fence(self) -> str:
        return self._key("fence")


def new_lineage() -> str:
    return secrets.token_hex(8)


def new_session_id(lineage: str) -> str:
    return f"ses-{lineage}-{secrets.token_hex(8)}"


def snapshot_id(lineage: str, digest: str) -> str:
    return f"snp-{lineage}-{digest}"


def lineage_of(any_id: str) -> str:
    """The lineage that a session or snapshot id belongs to. Raises InvalidId."""
    match = _ID.fullmatch(any_id)
    if match is None:
        raise InvalidId(f"{any_id!r} is not a session or snapshot id.")
    return match.group(2)
