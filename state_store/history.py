"""Histories: going back in one, where two part, and all that grew from one root."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from state_store import garbage
from state_store.connection import Control
from state_store.errors import HeadMoved, LeaseLost, NotFound
from state_store.layout import LineageKeys, is_snapshot_id, lineage_of
from state_store.pages import Listed, part_of
from state_store.records import Lease, Session, Snapshot
from state_store.sessions import Sessions
from state_store.snapshots import Snapshots

_BATCH = 256  # snapshots, or logs, that one round trip reads
_ATTEMPTS = 5


@dataclass(frozen=True)
class Diff:
    """Where two histories part.

    ancestor:         the last snapshot that both have; None if they share none
    left, right:      the snapshots after it on each side, oldest first
    first_difference: position of the first token that differs; None if one history only goes on
                      where the other ends. Not before the ancestor's end, and after it if both
                      sides went on with the same tokens.
    """

    ancestor: Snapshot | None
    left: tuple[Snapshot, ...]
    right: tuple[Snapshot, ...]
    first_difference: int | None

    @property
    def common_tokens(self) -> int:
        """Tokens up to the ancestor."""
        return 0 if self.ancestor is None else self.ancestor.total_tokens

    @property
    def left_tokens(self) -> int:
        """Tokens after the ancestor."""
        return self.left[-1].total_tokens - self.common_tokens if self.left else 0

    @property
    def right_tokens(self) -> int:
        """Tokens after the ancestor."""
        return self.right[-1].total_tokens - self.common_tokens if self.right else 0


@dataclass(frozen=True)
class Place:
    """Where in a history a number of tokens ends.

    before: the last snapshot with no more; None if the first has more
    within: the one after it, whose turn goes past the place; None at the history's end or beyond
    """

    before: Snapshot | None
    within: Snapshot | None


@dataclass(frozen=True)
class Tree:
    """A session, all its forks and theirs, and the snapshots that they reach.

    snapshots: by id, each after its parent
    sessions:  oldest first
    """

    lineage: str
    snapshots: dict[str, Snapshot]
    sessions: tuple[Session, ...]

    def children(self, snapshot_id: str | None) -> Sequence[Snapshot]:
        """What was committed onto a snapshot; the first turns for None."""
        return self._children.get(snapshot_id, ())

    def heads(self, snapshot_id: str | None) -> Sequence[Session]:
        """The sessions whose head it is; those without a turn for None."""
        return self._heads.get(snapshot_id, ())

    @cached_property
    def _children(self) -> dict[str | None, list[Snapshot]]:
        children = defaultdict(list)
        for snapshot in self.snapshots.values():
            children[snapshot.parent].append(snapshot)
        return dict(children)

    @cached_property
    def _heads(self) -> dict[str | None, list[Session]]:
        heads = defaultdict(list)
        for session in self.sessions:
            heads[session.head].append(session)
        return dict(heads)


class TreePage(NamedTuple):
    """Snapshots and sessions that were made one after the other, each the newest first: a snapshot
    comes before its parent, on this page or an earlier one.

    end: where the next page begins after, None if there is none
    """

    snapshots: list[Snapshot]
    sessions: list[Session]
    end: Listed | None


class Histories:
    """See the methods of the same names in `StateStore`."""

    def __init__(
        self, control: Control, prefix: str, sessions: Sessions, snapshots: Snapshots
    ) -> None:
        self._control = control
        self._prefix = prefix
        self._sessions = sessions
        self._snapshots = snapshots

    async def rewind(self, session: Session, snapshot_id: str | None, *, lease: Lease) -> Session:
        if lease.session_id != session.id:
            raise LeaseLost(f"a lease on {lease.session_id} is none on {session.id}.")
        if snapshot_id is not None:
            await self._check_is_in(session, snapshot_id)
        lineage = lineage_of(session.id)
        keys = LineageKeys(self._prefix, lineage)
        outcome, detail = await self._control.run(
            "rewind",
            [keys.session(session.id), keys.lease(session.id), keys.refs, keys.dead],
            lease.token,
            session.head or "",
            snapshot_id or "",
        )
        _raise_unless_ok(outcome.decode(), detail.decode(), session)
        await garbage.unwind(self._control, self._prefix, lineage)
        return replace(session, head=snapshot_id)

    async def place(self, head: str | None, tokens: int) -> Place:
        if tokens < 0:
            raise NotFound(f"no history has {tokens} tokens.")
        before, within = await self._place(head, tokens)
        found = await self._read([one for one in (before, within) if one is not None])
        if missing := {before, within} - {None, *found}:
            raise NotFound(f"no snapshot {missing.pop()}.")
        return Place(found.get(before or ""), found.get(within or ""))

    async def diff(self, left: str, right: str) -> Diff:
        heads = [
            one if is_snapshot_id(one) else (await self._sessions.record(one)).head
            for one in (left, right)
        ]
        ancestor, sides = await self._part(heads)
        ours, theirs = [tuple([await self._snapshots.opened(s) for s in side]) for side in sides]
        ancestor = None if ancestor is None else await self._snapshots.opened(ancestor)
        start = 0 if ancestor is None else ancestor.total_tokens
        return Diff(ancestor, ours, theirs, await self._first_difference(start, (ours, theirs)))

    async def tree(self, lineage: str) -> Tree:
        keys = LineageKeys(self._prefix, lineage)
        for _ in range(_ATTEMPTS):
            rows, held = await self._control.run(
                "lineage", [keys.sessions, keys.refs], keys.session("")
            )
            if not rows:
                raise NotFound(f"no session of lineage {lineage} is left.")
            sessions = [await self._sessions.opened(Session.unpack(*row)) for row in rows]
            found = await self._read([raw.decode() for raw in held])
            missing = {s.head for s in sessions if s.head} - found.keys()
            missing |= {s.parent for s in found.values() if s.parent} - found.keys()
            if not missing:
                return _tree(lineage, found, sessions)
            # Else something was let go of between the two: look again.
        raise NotFound(
            f"snapshots of lineage {lineage} are missing (first: {min(missing)}), or come and go "
            "faster than they can be read; check_integrity tells which."
        )

    async def page_of_tree(self, lineage: str, *, limit: int, after: Listed | None) -> TreePage:
        keys = LineageKeys(self._prefix, lineage)
        async with self._control.guard() as client:
            part = await part_of(client, keys.tree, limit=limit, after=after)
        ids = [place.id for place in part.places]
        snapshots = [one for one in ids if is_snapshot_id(one)]
        # What is being let go of is not shown, nor what is gone since it was listed.
        dying = await self._control.exchange([("SISMEMBER", keys.dead, one) for one in snapshots])
        alive = [one for one, dead in zip(snapshots, dying, strict=True) if not dead]
        sessions = await self._sessions.get_many([one for one in ids if not is_snapshot_id(one)])
        return TreePage(await self._snapshots.get_many(alive), sessions, part.end)

    async def _check_is_in(self, session: Session, snapshot_id: str) -> None:
        with contextlib.suppress(NotFound):
            tokens = (await self._snapshots.record(snapshot_id)).total_tokens
            last, _ = await self._place(session.head, tokens)
            async with aclosing(self._snapshots.walk(last)) as history:
                async for snapshot in history:  # several may have as many tokens
                    if snapshot.id == snapshot_id:
                        return
                    if snapshot.total_tokens < tokens:
                        break
        raise NotFound(
            f"snapshot {snapshot_id} is not in the history of {session.id}; the head is unchanged."
        )

    async def _place(self, head: str | None, tokens: int) -> tuple[str | None, str | None]:
        """Ids of `Place`. One command of a logarithmic number of steps, but for what was committed
        before ways back were marked: that is walked."""
        if head is None:
            return None, None
        keys = LineageKeys(self._prefix, lineage_of(head))
        at, after, *unmarked = await self._control.run(
            "place", [keys.snapshot(head)], keys.snapshot_prefix, head, tokens
        )
        before, within = at.decode() or None, after.decode() or None
        if not unmarked:
            return before, within
        async with aclosing(self._snapshots.walk(before)) as history:
            async for snapshot in history:
                if snapshot.total_tokens <= tokens:
                    return snapshot.id, within
                within = snapshot.id
        return None, within

    async def _part(
        self, heads: Sequence[str | None]
    ) -> tuple[Snapshot | None, list[tuple[Snapshot, ...]]]:
        """The last common snapshot, and what comes after it on each side, oldest first.

        Both are walked in step, so that neither walk goes further than twice the longer side.
        """
        walked: list[dict[str, Snapshot]] = [{}, {}]
        async with (
            aclosing(self._snapshots.walk(heads[0])) as left,
            aclosing(self._snapshots.walk(heads[1])) as right,
        ):
            walks, unfinished = (left, right), [0, 1]
            while unfinished:
                for side in tuple(unfinished):
                    snapshot = await anext(walks[side], None)
                    if snapshot is None:
                        unfinished.remove(side)
                    elif snapshot.id in walked[1 - side]:
                        return snapshot, [_after(snapshot, seen) for seen in walked]
                    else:
                        walked[side][snapshot.id] = snapshot
        return None, [tuple(seen.values())[::-1] for seen in walked]

    async def _first_difference(
        self, start: int, sides: Sequence[Sequence[Snapshot]]
    ) -> int | None:
        """Logs are read only as far as the tokens are equal."""
        logs = [self._logs(side) for side in sides]
        rests = [b"", b""]
        position = start
        while True:
            for side in (0, 1):
                while not rests[side]:
                    more = await anext(logs[side], None)
                    if more is None:
                        return None
                    rests[side] = more
            size = min(map(len, rests))
            one, other = (np.frombuffer(rest[:size], dtype="<u4") for rest in rests)
            if (differ := np.flatnonzero(one != other)).size:
                return position + int(differ[0])
            position += size // 4
            rests = [rest[size:] for rest in rests]

    async def _logs(self, snapshots: Sequence[Snapshot]) -> AsyncGenerator[bytes]:
        for start in range(0, len(snapshots), _BATCH):
            for log in await self._snapshots.token_logs(snapshots[start : start + _BATCH]):
                yield log

    async def _read(self, snapshot_ids: Sequence[str]) -> dict[str, Snapshot]:
        """Those that are there."""
        found: dict[str, Snapshot] = {}
        for start in range(0, len(snapshot_ids), _BATCH):
            for snapshot in await self._snapshots.get_many(snapshot_ids[start : start + _BATCH]):
                found[snapshot.id] = snapshot
        return found


def _raise_unless_ok(outcome: str, detail: str, session: Session) -> None:
    if outcome == "ok":
        return
    if outcome == "no_session":
        raise NotFound(f"no session {session.id}.")
    if outcome == "head_moved":
        raise HeadMoved(
            f"head of {session.id} is {detail or 'empty'} and no longer "
            f"{session.head or 'empty'}; it was not moved back."
        )
    raise LeaseLost(
        f"the lease on {session.id} expired or was taken over "
        f"({detail or 'nobody holds it now'}); its head was not moved."
    )


def _after(ancestor: Snapshot, walked: dict[str, Snapshot]) -> tuple[Snapshot, ...]:
    """walked: from the head; the ancestor may or may not be among them."""
    newer = itertools.takewhile(lambda snapshot: snapshot.id != ancestor.id, walked.values())
    return tuple(newer)[::-1]


def _tree(lineage: str, found: dict[str, Snapshot], sessions: Sequence[Session]) -> Tree:
    """What no session reaches is being let go of, and left out."""
    reached: dict[str, Snapshot] = {}
    for session in sessions:
        path = []
        at = session.head
        while at is not None and at not in reached:
            path.append(found[at])
            at = found[at].parent
        reached.update((snapshot.id, snapshot) for snapshot in reversed(path))
    return Tree(lineage, reached, tuple(sorted(sessions, key=lambda s: s.body.created_at)))
