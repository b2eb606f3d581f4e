"""Names of everything in Redis.

Control records of one lineage (a root session and all its forks) carry the hash tag
`{<lineage>}`, so that they live in one slot and a commit is atomic; those of one tenant carry
`{tenant:<name>}`. Objects (the parts of pages and states) are tagged with their own name instead:
a cluster spreads them, and what belongs to an object sits beside it:

    <prefix>:<kind>:<fingerprint>:<rank>:{<tag>}    header + payload, see `state_store/codec.py`
    <prefix>:pins:<kind>:<fingerprint>:{<tag>}      set of the commits that hold it, on all ranks
    <prefix>:cold:<kind>:<fingerprint>:{<tag>}      generation under which the archive has it
    <prefix>:condemned:<kind>:<fingerprint>:{<tag>} set of generations to be deleted there
    <prefix>:seed:<kind>:<fingerprint>:{<tag>}      what its encryption key is derived from
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from state_store.errors import InvalidId, InvalidTenant

Kind = Literal["kv", "state"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PART_BYTES = (4 << 20) - 4096
"""Larger payloads are cut: values of 1-4 MiB moved fastest when this was written, a value keeps
a server busy while it is copied, and the parts of one state spread over a cluster. A value of
4 MiB and a header would take 5 MiB of the server's memory: the next size class of jemalloc, which
Redis is built with by default."""

_ID = re.compile(r"(ses|snp)-([0-9a-f]{16})-([0-9a-f]{16,64})")
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LABEL = re.compile(r"\}:label(?:led)?:")


class ObjectRef(NamedTuple):
    """Names one object of a history, on every rank: a part of a page or of a state."""

    kind: Kind
    page_hash: str
    part: int = 0

    @property
    def tag(self) -> str:
        return f"{self.page_hash}.{self.part}" if self.part else self.page_hash


def parts_of(payload_bytes: int) -> int:
    """Objects that a payload of so many bytes is cut into."""
    return max(1, -(-payload_bytes // PART_BYTES))


@dataclass(frozen=True)
class ObjectNames:
    """Keys of one engine rank's objects.

    fingerprint_id: 32 hex digits, see `state_store/fingerprint.py`
    """

    prefix: str
    fingerprint_id: str
    rank: int

    def key(self, ref: ObjectRef) -> bytes:
        return f"{self.prefix}:{ref.kind}:{self.fingerprint_id}:{self.rank}:{{{ref.tag}}}".encode()

    def pins_key(self, ref: ObjectRef) -> bytes:
        return self._beside("pins", ref)

    def cold_key(self, ref: ObjectRef) -> bytes:
        return self._beside("cold", ref)

    def condemned_key(self, ref: ObjectRef) -> bytes:
        return self._beside("condemned", ref)

    def seed_key(self, ref: ObjectRef) -> bytes:
        return self._beside("seed", ref)

    def _beside(self, what: str, ref: ObjectRef) -> bytes:
        return f"{self.prefix}:{what}:{ref.kind}:{self.fingerprint_id}:{{{ref.tag}}}".encode()


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
    def tree(self) -> str:
        """Sorted set of the ids of its sessions and snapshots by when they were made: a snapshot
        after its parent."""
        return self._key("tree")

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

    @property
    def usage(self) -> str:
        """Hash of the bytes and tokens that its snapshots have, and the bytes of what is recorded
        and kept beside them, see `state_store/quotas.py`."""
        return self._key("usage")

    @property
    def effects(self) -> str:
        """Hash of records of what its sessions' tools have done, see `state_store/effects.py`."""
        return self._key("effects")

    @property
    def held_files(self) -> str:
        """Hash: how many snapshots hold a set of files, and how many sets a blob; see
        `state_store/files.py`."""
        return self._key("held-files")

    @property
    def wanted_files(self) -> str:
        """Hash: unix time until which files that are held live on when nothing holds them any
        more; of an encrypted tenant, whose files go at once otherwise. Expires."""
        return self._key("wanted-files")

    @property
    def loose_files(self) -> str:
        """Hash: until when files live that were held by nothing when they were kept, and their
        bytes; for quotas. Expires."""
        return self._key("loose-files")

    @property
    def cold_files(self) -> str:
        """Hash: blob that is in the archive and not here -> how it is known there, see
        `state_store/archive/cold_files.py` and `lua/cold_files.lua`."""
        return self._key("cold-files")

    @property
    def condemned_files(self) -> str:
        """Hash: blob and generation to be deleted from the archive -> when it was condemned, unix
        time. Outlives the lineage."""
        return self._key("condemned-files")

    @property
    def places_of_loose(self) -> list[str | bytes]:
        """What `lua/loose_files.lua` takes."""
        return [self.loose_files, self.held_files, self.usage]

    def files(self, name: str) -> str:
        """Hash with a set of files: its body, and the blobs that it needs."""
        return self._key(f"files:{name}")

    def blob(self, name: str) -> str:
        return self._key(f"blob:{name}")

    def attachments(self, session_id: str) -> str:
        """Hash of what is kept with a session, see `state_store/attachments.py`."""
        return self._key(f"attachments:{session_id}")

    def attach_call(self, call_id: str) -> str:
        """Mark of a change of attachments that was made; expires."""
        return self._key(f"attach-call:{call_id}")

    def feed(self, session_id: str) -> str:
        """Stream of what happens to a session, see `state_store/feeds.py`; expires."""
        return self._key(f"feed:{session_id}")

    @property
    def seed(self) -> str:
        """What the key of the lineage's token log and metadata is derived from."""
        return self._key("seed")


@dataclass(frozen=True)
class OperatorKeys:
    """Keys of what belongs to who runs the service, and to no tenant."""

    prefix: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{operators}}:{name}"

    @property
    def api_keys(self) -> str:
        """As `TenantKeys.api_keys`."""
        return self._key("api-keys")

    def spent(self, key_id: str, minute: int) -> str:
        """As `TenantKeys.spent`."""
        return self._key(f"spent:{key_id}:{minute}")

    @property
    def tenants(self) -> str:
        """Sorted set of the names of all tenants that were made and not deleted, by name."""
        return self._key("tenants")

    @property
    def unfinished(self) -> str:
        """Sorted set of the names of tenants that may have sessions in `TenantKeys.unfinished`, by
        when one was last put there."""
        return self._key("unfinished")


@dataclass(frozen=True)
class TenantKeys:
    """Keys of one tenant's records. Raises InvalidTenant."""

    prefix: str
    tenant: str

    def __post_init__(self) -> None:
        if not is_tenant(self.tenant):
            raise InvalidTenant(
                f"{self.tenant[:80]!r} is not a tenant's name; use 1 to 64 letters, digits, "
                "dots, dashes and underscores."
            )

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{tenant:{self.tenant}}}:{name}"

    @property
    def pattern(self) -> str:
        """Of all that is the tenant's, for `SCAN`."""
        return self._key("*")

    @property
    def record(self) -> str:
        return self._key("record")

    @property
    def sessions(self) -> str:
        """Sorted set of the tenant's session ids by creation time."""
        return self._key("sessions")

    @property
    def used(self) -> str:
        """Sorted set of the tenant's session ids by the time of their last use."""
        return self._key("used")

    @property
    def usage(self) -> str:
        """Hash of what quotas are checked against, see `state_store/quotas.py`."""
        return self._key("usage")

    def note(self, name: str) -> str:
        """A small value that expires, see `state_store/notes.py`."""
        return self._key(f"note:{name}")

    @property
    def notes(self) -> str:
        """Sorted set of the sizes and names of all notes by the time when they expire."""
        return self._key("notes")

    @property
    def places_of_notes(self) -> list[str]:
        """What `lua/count_notes.lua` takes."""
        return [self.usage, self.quota, self.notes]

    def notes_on(self, session_id: str) -> str:
        """Sorted set of the names of a session's notes by the time when they expire."""
        return self._key(f"notes-on:{session_id}")

    def items(self, name: str) -> str:
        """List of values that a client keeps, see `state_store/items.py`."""
        return self._key(f"items:{name}")

    def items_call(self, call_id: str) -> str:
        """Mark of a change of items that was made; expires."""
        return self._key(f"items-call:{call_id}")

    @property
    def unfinished(self) -> str:
        """Hash of sessions that are made for something, see `state_store/unfinished.py`."""
        return self._key("unfinished")

    @property
    def api_keys(self) -> str:
        """Hash of the tenant's API keys by id, see `state_store/api_keys.py`."""
        return self._key("api-keys")

    def spent(self, key_id: str, minute: int) -> str:
        """How many requests a key has made in that minute since 1970; expires."""
        return self._key(f"spent:{key_id}:{minute}")

    @property
    def quota(self) -> str:
        """Hash of how much the tenant may have."""
        return self._key("quota")

    @property
    def reserved(self) -> str:
        """Hash of the room in the quota that writers hold, see `state_store/quotas.py`."""
        return self._key("reserved")

    def label(self, name: str, value: str) -> str:
        """Sorted set of the ids that may carry the label, by when they were listed: those that
        do are among them."""
        return self._key(f"label:{name}={value}")

    def labelled(self, name: str, value: str) -> str:
        """Sorted set of the ids of sessions that may carry the label, by creation time: those that
        do are among them. Each is listed in `label` too."""
        return self._key(f"labelled:{name}={value}")


def label_of(key: str) -> tuple[str, str] | None:
    """Name and value from a key of a label; None from another."""
    found = _LABEL.split(key, maxsplit=1)
    if len(found) == 1:
        return None
    name, _, value = found[1].partition("=")
    return name, value


def lists_of_label(key: str) -> tuple[str, str]:
    """Both keys of a label from either."""
    before, label = _LABEL.split(key, maxsplit=1)
    return f"{before}}}:label:{label}", f"{before}}}:labelled:{label}"


def sessions_of_label(key: str) -> str:
    """Key of the list of the tenant's sessions, from a key of a label."""
    return _LABEL.split(key, maxsplit=1)[0] + "}:sessions"


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
        raise InvalidId(f"{any_id[:120]!r} is not a session or snapshot id.")
    return match.group(2)


def check_session_id(any_id: str, *, lineage: str | None = None) -> None:
    """Raises InvalidId for what is no session's, or of another lineage than that."""
    found = lineage_of(any_id)
    if is_snapshot_id(any_id) or lineage not in (None, found):
        raise InvalidId(
            f"{any_id} cannot be the session's id; nothing was made. Choose one with "
            "`new_session_id`, with `beside` for a fork."
        )


def is_tenant(name: str) -> bool:
    """Whether a tenant can be called so."""
    return _TENANT.fullmatch(name) is not None


def is_snapshot_id(any_id: str) -> bool:
    return any_id.startswith("snp-")
