"""What a check finds, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    # records
    "session-record",  # a session that its lineage lists has no record, or an unreadable one
    "snapshot-record",  # a snapshot that something names has no record, or an unreadable one
    "snapshot-field",  # its record lacks its parent or its pin, or contradicts itself
    "totals",  # a lineage counts other bytes or tokens for quotas than its snapshots do
    "tenant-totals",  # the sum of a tenant's totals is not what they sum to
    "fingerprint-record",  # no record of a state format that snapshots name
    "tenant-record",  # a tenant's record is missing or unreadable
    "token-log",  # it is not what the snapshot was committed with
    "references",  # a snapshot counts more or fewer references than it has
    "stray-snapshot",  # nothing reaches it
    "stray-log",  # a token log of no snapshot
    "journal",  # of a commit in progress or abandoned, and unreadable
    "lease",  # malformed, of no session, or never expires
    "unlisted-session",  # its lineage does not list it
    "tree",  # a lineage's tree lacks or misplaces what is there, or lists what is no more
    "unlisted-lineage",  # the store does not list it
    "file-references",  # a set of files, or a blob, counts more or fewer references than it has
    "file-missing",  # a set that a snapshot holds, or a blob that such a set needs
    "file-damaged",  # its content is not what its name says
    "file-expires",  # though a snapshot holds it
    "file-archived",  # a content that the archive has: how is malformed, or it is in Redis too
    "file-lost",  # the archive's bytes of a content are gone or damaged
    "unlisted-tenant",  # the store's list lacks it, or names one that is not there
    "unlisted-unfinished",  # it has unfinished sessions, and recovery is not told to look for them
    # objects
    "object-missing",  # on some rank, and not archived
    "object-damaged",  # its bytes are not what its name says
    "object-expires",  # though a snapshot holds it
    "seed-missing",  # of an encrypted object that a snapshot holds: nobody can read it
    "seed-expires",  # though a snapshot holds its object
    "seed-differs",  # the object was encrypted under another: nobody can read it
    "object-leaks",  # held by nobody, and it never expires
    "unpinned",  # a live snapshot does not hold what it names
    "stray-pin",  # held by a commit that is no more
    "cold-key",  # malformed
    "cold-unheld",  # archived, though nobody holds it
    "archive",  # the archive's bytes are gone or damaged
    "condemned",  # bytes that the archive is to delete, and that are needed or have no name
    # lists
    "list-dangling",  # a tenant's list or label names a session that is no more
    "list-missing",  # or lacks one
]


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be.

    subject:    the id or key that it is about
    repairable: whether `repair` can mend it, without losing anything that is alive
    detail:     what `repair` needs to know, and who looks into it may want to
    """

    kind: Kind
    subject: str
    message: str
    repairable: bool
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


@dataclass
class Report:
    """What a walk over the store found. `problems` is empty for a store that is in order.

    snapshots:               including those that are being unwound
    objects, object_bytes:   in Redis and held by live snapshots; a shared one counts once, and
                             each rank's bytes are an object
    unheld:                  objects in Redis that nobody holds; they expire by themselves
    archived, archived_bytes: objects in the archive, each rank's counted, and contents of files;
                             the bytes are known only if the archive was read
    repaired:                problems that were found and are gone
    """

    lineages: int = 0
    sessions: int = 0
    snapshots: int = 0
    objects: int = 0
    object_bytes: int = 0
    unheld: int = 0
    archived: int = 0
    archived_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    repaired: list[Problem] = field(default_factory=list)

    @property
    def repairable(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.repairable]
