"""Feeds: what happens to a session, in order, for whoever follows it from any process.

Short and short-lived: a feed is for watching, and nothing relies on it. It says nothing of what was
said, and goes with its session; only that this was deleted is told for a little longer.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from state_store.connection import Control
from state_store.layout import LineageKeys, lineage_of


class Place(NamedTuple):
    """Of an entry in its feed. id: grows along it; number: how many there are up to it"""

    id: str
    number: int


START = Place("0-0", 0)
"""Before the first entry of any feed."""
_ENTRIES = 128  # kept of one session
_KEPT = 600_000  # milliseconds after the last entry
_LAST_KEPT = 60_000  # milliseconds, of a deleted session
_AT_ONCE = 64  # entries of one feed that are read in one go
_ID = re.compile(r"\d{1,20}-\d{1,20}")


class Post(NamedTuple):
    """is_last: the session is gone, and what was told before goes too"""

    session_id: str
    value: bytes
    is_last: bool = False


class Entry(NamedTuple):
    place: Place
    value: bytes


class Feeds:
    """See `StateStore.feeds`. Every method raises InvalidId."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def publish(self, posts: Sequence[Post]) -> None:
        """In this order, those of one session. Posts of a session that is gone are dropped, but
        its last."""
        calls = []
        left = Counter(post.session_id for post in posts)
        for post in posts:
            session = self._keys(post.session_id).session(post.session_id)
            ttl = _LAST_KEPT if post.is_last else _KEPT
            mark, sent = secrets.token_hex(8), min(left[post.session_id], _ENTRIES)
            left[post.session_id] -= 1
            arguments = (post.value, _ENTRIES, ttl, int(post.is_last), mark, sent)
            calls.append(((session, self._key(post.session_id)), arguments))
        await self._control.run_many("publish", calls)

    async def last(self, session_id: str) -> Place:
        """Of the last entry; START without any."""
        async with self._control.guard() as client:
            found = await client.xrevrange(self._key(session_id), count=1)
        return _entry(*found[0]).place if found else START

    async def find(self, session_id: str, entry_id: str) -> Place | None:
        """Of an entry that is still there, and with it all that came after it."""
        if not _ID.fullmatch(entry_id):
            return None
        async with self._control.guard() as client:
            found = await client.xrange(self._key(session_id), entry_id, entry_id)
        return _entry(*found[0]).place if found else None

    async def after(self, places: Mapping[str, Place]) -> dict[str, list[Entry]]:
        """What came after a place, by session; a bounded number of entries each, and only of
        sessions that have some. Numbers that are left out are of entries that are gone already."""
        if not places:
            return {}
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for session_id, place in places.items():
                pipeline.xrange(self._key(session_id), f"({place.id}", "+", count=_AT_ONCE)
            found = await pipeline.execute()
        return {
            session_id: [_entry(*one) for one in entries]
            for session_id, entries in zip(places, found, strict=True)
            if entries
        }

    async def gone(self, session_ids: Collection[str]) -> set[str]:
        """Those of the sessions that are there no more, whether or not that was told."""
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for session_id in session_ids:
                pipeline.exists(self._keys(session_id).session(session_id))
            found = await pipeline.execute()
        return {one for one, there in zip(session_ids, found, strict=True) if not there}

    def _keys(self, session_id: str) -> LineageKeys:
        return LineageKeys(self._prefix, lineage_of(session_id))

    def _key(self, session_id: str) -> str:
        return self._keys(session_id).feed(session_id)


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    return Entry(Place(entry_id.decode(), int(fields[b"n"])), fields[b"v"])
