"""Following sessions: one look at the store for all that are followed in this process.

    store ──► a session's ring: its last events, shared by all who read ──► each reader's place

A reader that falls behind the ring is told how many events it missed. So memory is bounded by the
sessions that are followed, however many read and however slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from agent_runtime.wire.events import sent
from agent_runtime.wire.session_events import SESSION_EVENTS, Deleted, Missed
from agent_runtime.wire.sessions import SessionView
from state_store.errors import StoreError
from state_store.feeds import START, Entry, Place
from state_store.store import StateStore

logger = logging.getLogger(__name__)

_RING = 128  # events of one session
_LOOK = 0.5  # seconds between looks, and so how late it is told what other processes did
_GONE = 10.0  # seconds between looks for sessions that were deleted and nobody told of it
_KEEP_ALIVE = 15.0  # seconds of silence; proxies end connections that are silent for longer
_LAST_LOOK = 2.0  # seconds that it may take, when all streams end
_MISSED, _LAST = "missed", "deleted"
assert {_MISSED, _LAST} <= set(SESSION_EVENTS)


@dataclass
class _Followed:
    """One session. last: the latest entry's; ring: entries with their text; is_over: the session is
    deleted; is_untold: no entry says so, as where its tenant was deleted with all that it had"""

    last: Place
    ring: deque[tuple[Place, str]] = field(default_factory=lambda: deque(maxlen=_RING))
    readers: int = 0
    is_over: bool = False
    is_untold: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.ring.append((entry.place, _text(entry)))
            self.last = entry.place
            self.is_over = self.is_over or _is_last(entry)
        self.wake()

    def end(self) -> None:
        """The session is gone."""
        if not self.is_over:
            self.is_over = self.is_untold = True
            self.wake()

    def wake(self) -> None:
        """All who wait; the next ones wait for the next event."""
        self.news.set()
        self.news = asyncio.Event()


class Followers:
    """Everybody who follows sessions in this process."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._followed: dict[str, _Followed] = {}
        self._looking: asyncio.Task[None] | None = None
        self._fresh: set[str] = set()
        self._soon = asyncio.Event()
        self._all_at = 0.0
        self._gone_at = 0.0
        self._is_closing = False

    @property
    def readers(self) -> int:
        return sum(followed.readers for followed in self._followed.values())

    def posted(self, session_ids: Collection[str]) -> None:
        """There is something new of these sessions in the store."""
        self._fresh.update(self._followed.keys() & session_ids)
        if self._fresh:
            self._soon.set()

    async def follow(
        self, session_id: str, look: Callable[[], Awaitable[SessionView]], *, after: str | None
    ) -> AsyncGenerator[str]:
        """What happens to the session, as server-sent events, until it is deleted or this process
        ends. It begins after the event with the id `after`, if that is still known, and else with
        `session`: how it is now.

        look: reads the session
        """
        feeds = self._store.feeds
        at = None if after is None else await feeds.find(session_id, after)
        if at is None:
            at = await feeds.last(session_id)
            # Only now: what happens after this look is told.
            view = await look()
            gap = "" if after in (None, START.id) else sent(_MISSED, Missed(dropped=None))
            yield f"{gap}id: {at.id}\n{sent('session', view)}"
        while entries := (await feeds.after({session_id: at})).get(session_id):
            yield _told(at, [(entry.place, _text(entry)) for entry in entries])
            at = entries[-1].place
            if any(map(_is_last, entries)):
                return
        with self._joined(session_id, at) as followed:
            async with contextlib.aclosing(self._read(followed, at)) as texts:
                async for text in texts:
                    yield text

    async def close(self) -> None:
        """Every stream ends, with what is in the store by now."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LAST_LOOK):
                await self._take({s: followed.last for s, followed in self._followed.items()})
        self._is_closing = True
        for followed in self._followed.values():
            followed.wake()

    @contextlib.contextmanager
    def _joined(self, session_id: str, at: Place) -> Iterator[_Followed]:
        followed = self._followed.setdefault(session_id, _Followed(at))
        followed.readers += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield followed
        finally:
            followed.readers -= 1
            if not followed.readers:
                del self._followed[session_id]

    async def _read(self, followed: _Followed, seen: Place) -> AsyncGenerator[str]:
        """seen: the last entry that the reader has"""
        while True:
            if fresh := [one for one in followed.ring if _is_after(one[0], seen)]:
                yield _told(seen, fresh)
                seen = fresh[-1][0]
                continue
            if followed.is_over or self._is_closing:
                if followed.is_untold:
                    yield sent(_LAST, Deleted())
                return
            news = followed.news
            try:
                async with asyncio.timeout(_KEEP_ALIVE):
                    await news.wait()
            except TimeoutError:
                yield ": keep-alive\n\n"

    async def _look(self) -> None:
        """As long as anybody follows anything."""
        is_lost = False
        fresh: set[str] | None = None  # all
        while self._followed and not self._is_closing:
            places = {
                session_id: followed.last
                for session_id, followed in self._followed.items()
                if fresh is None or session_id in fresh
            }
            try:
                self._fresh |= await self._take(places)  # there may be more
                await self._end_gone()
                is_lost = False
            except StoreError as error:
                if not is_lost:
                    logger.warning("what happens to followed sessions is not seen: %s", error)
                is_lost = True
            fresh = await self._next()

    async def _take(self, places: dict[str, Place]) -> set[str]:
        """What came after these places, to the rings; the sessions to which anything came."""
        found = await self._store.feeds.after(places)
        for session_id, entries in found.items():
            now = self._followed.get(session_id)
            if now is not None and now.last == places[session_id]:
                now.take(entries)
        return set(found)

    async def _end_gone(self) -> None:
        """End the streams of sessions that are gone, now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._gone_at:
            return
        self._gone_at = now + _GONE
        gone = await self._store.feeds.gone(list(self._followed))
        # Mostly, who deleted it tells of it.
        await self._take({s: followed.last for s, followed in self._followed.items() if s in gone})
        for session_id in gone & self._followed.keys():
            self._followed[session_id].end()

    async def _next(self) -> set[str] | None:
        """Whom to look at next, when it is time; None for all."""
        loop = asyncio.get_running_loop()
        self._soon.clear()
        if not self._fresh:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._all_at):
                    await self._soon.wait()
        fresh, self._fresh = self._fresh, set()
        if loop.time() < self._all_at:
            return fresh
        self._all_at = loop.time() + _LOOK
        return None


def _told(seen: Place, entries: Sequence[tuple[Place, str]]) -> str:
    """Entries after the one that was seen last, and how many between them are gone."""
    texts = []
    for place, text in entries:
        if (dropped := place.number - seen.number - 1) > 0:
            texts.append(sent(_MISSED, Missed(dropped=dropped)))
        texts.append(text)
        seen = place
    return "".join(texts)


def _text(entry: Entry) -> str:
    name, _, body = entry.value.decode().partition("\n")
    return f"id: {entry.place.id}\nevent: {name}\ndata: {body}\n\n"


def _is_last(entry: Entry) -> bool:
    return entry.value.startswith(_LAST.encode() + b"\n")


def _is_after(place: Place, other: Place) -> bool:
    (time, _, number), (other_time, _, other_number) = (
        one.id.partition("-") for one in (place, other)
    )
    return (int(time), int(number)) > (int(other_time), int(other_number))
