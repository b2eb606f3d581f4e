"""Lists a part at a time: sorted sets of ids by creation, newest first."""

from __future__ import annotations

from typing import Any, NamedTuple

from state_store.errors import InvalidArgument
from state_store.records import Session


class Listed(NamedTuple):
    """A place in a list of sessions or snapshots. It stays one when what is there is deleted."""

    created_at: float
    id: str


class Part(NamedTuple):
    """Of a list; end: where the next part begins after, None if there is none."""

    places: list[Listed]
    end: Listed | None


class Page(NamedTuple):
    """The sessions of a part."""

    sessions: list[Session]
    end: Listed | None


async def part_of(client: Any, key: str, *, limit: int, after: Listed | None) -> Part:
    """At most `limit` of the list in `key`, from after a place in it on, as of one moment. It costs
    as much as it has, and those that were created in the same moment as `after`. Raises
    InvalidArgument."""
    if limit < 1:
        raise InvalidArgument(f"a page of {limit} has no end to go on from; give at least 1.")
    newest = "+inf" if after is None else repr(after.created_at)
    count = limit + 2  # `after` itself is among them, and one more tells that there are more
    while True:
        found = await client.zrevrangebyscore(
            key, newest, "-inf", start=0, num=count, withscores=True
        )
        listed = [Listed(created_at, raw.decode()) for raw, created_at in found]
        places = [place for place in listed if after is None or place < after]
        if len(places) > limit or len(found) < count:
            break
        count *= 2
    shown = places[:limit]
    return Part(shown, shown[-1] if len(places) > limit else None)
