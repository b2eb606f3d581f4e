"""Lists, a page at a time: sessions of a tenant, all or those of a residency or with labels, and
snapshots with labels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import BadRequest
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.sessions import SessionView, SnapshotView
from engine.pool import EnginePool
from state_store.pages import Listed
from state_store.store import StateStore

_AT_ONCE = 100  # sessions that are read in one go
_LOOKED_AT = 1000  # sessions that one page with few matches looks at

Residency = Literal["device", "stored", "archived", "partly", "lost", "tokens", "empty", "none"]


class Listing:
    """Newest first."""

    def __init__(
        self,
        store: StateStore,
        pool: EnginePool,
        sessions: Sessions,
        turns: Turns,
        settings: RuntimeSettings,
    ) -> None:
        self._store = store
        self._pool = pool
        self._sessions = sessions
        self._turns = turns
        self._settings = settings

    async def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        residency: Residency | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> tuple[list[SessionView], str | None]:
        """At most `limit` sessions from after a place in the list on; and the place where the next
        ones begin after, None if there are none.

        labels: all of them

        With few matches a page may have fewer, and others still follow: it ends when it has looked
        at enough. Raises BadRequest for a place that is none, InvalidLabels.
        """
        tenant = current_tenant(self._settings.tenant)
        kept = self._turns.outage.kept_turns()
        alive = {record.boot_id for record in await self._pool.records()}
        place = place_of(after)
        # One more than the page, to know whether there is one; more where many are not shown.
        is_sparse = residency is not None or len(labels or ()) > 1
        at_once = max(limit + 1, _AT_ONCE) if is_sparse else limit + 1
        views: list[SessionView] = []
        looked_at = 0
        while looked_at < max(limit + 1, _LOOKED_AT):
            page = await self._store.page_of_sessions(
                tenant, limit=at_once, after=place, labels=labels
            )
            for start in range(0, len(page.sessions), _AT_ONCE):
                if len(views) == limit:
                    return views, written(place)
                batch = page.sessions[start : start + _AT_ONCE]
                listed = await self._sessions.listed(batch, kept, alive)
                for session, view in zip(batch, listed, strict=True):
                    if len(views) == limit:
                        return views, written(place)
                    place = Listed(session.body.created_at, session.id)
                    if view is not None and residency in (None, view.residency):
                        views.append(view)
            place = page.end
            if place is None:
                return views, None
            looked_at += at_once
        return views, written(place)

    async def page_of_snapshots(
        self, labels: Mapping[str, str], *, limit: int, after: str | None = None
    ) -> tuple[list[SnapshotView], str | None]:
        """At most `limit` snapshots that carry all of `labels`, and the next place, as `page`.

        Every page reads all of them: labels name snapshots that somebody wants to find again.
        Raises BadRequest for a place that is none, InvalidLabels.
        """
        tenant = current_tenant(self._settings.tenant)
        place = place_of(after)
        found = await self._store.find_snapshots(tenant, labels)
        places = [(Listed(one.created_at, one.id), one) for one in found]
        places.sort(key=lambda one: one[0], reverse=True)
        rest = [one for one in places if place is None or one[0] < place]
        views = await self._sessions.snapshot_views([one for _, one in rest[:limit]])
        return views, written(rest[limit - 1][0]) if len(rest) > limit else None


def labels_of(assignments: Sequence[str]) -> dict[str, str]:
    """From NAME=VALUE each. Raises BadRequest."""
    found: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or found.setdefault(name, value) != value:
            raise BadRequest(
                f"{assignment[:80]!r} is no label to look for: give NAME=VALUE, a name once."
            )
    return found


def written(place: Listed | None) -> str:
    """As `place_of` reads it."""
    assert place is not None, "a page without a session is no page"
    return f"{place.created_at!r},{place.id}"


def place_of(after: str | None) -> Listed | None:
    """Where a page begins after. Raises BadRequest."""
    if after is None:
        return None
    created_at, _, session_id = after.partition(",")
    with contextlib.suppress(ValueError):
        if math.isfinite(float(created_at)):
            return Listed(float(created_at), session_id)
    raise BadRequest(
        f"{after[:80]!r} is no place in the list; use the link to the next page that "
        "came with the last one, or begin without `after`."
    )
