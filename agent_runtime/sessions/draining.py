"""Emptying this runtime before it ends: no new turns, running ones to their end, what it holds
suspended.

    refuse turns ─► running ones end, or are ended at the limit ─► suspend all that is held here

Whoever follows sessions or asks whether the service is ready learns of it at once, and goes on at
another runtime.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from agent_runtime.errors import TorporError
from agent_runtime.feed.following import Followers
from agent_runtime.feed.posting import Feed
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.turns.cancelling import ENDING
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.residency import SuspendRequest
from engine.errors import EngineError
from state_store.errors import NotFound, StoreError

logger = logging.getLogger(__name__)

_AT_A_TIME = 8  # sessions that are suspended
_SUSPENDING = 20.0  # seconds for all of them; a store or engine that is gone takes no longer


@dataclass(frozen=True)
class Drained:
    """ended: turns that were ended at the limit; suspended: sessions; left: those that could not
    be, whose turns are as durable as their results say"""

    ended: int
    suspended: int
    left: int


class Drain:
    """Of one runtime."""

    def __init__(
        self,
        turns: Turns,
        sessions: Sessions,
        residency: Residency,
        feed: Feed,
        followers: Followers,
    ) -> None:
        self._turns = turns
        self._sessions = sessions
        self._residency = residency
        self._feed = feed
        self._followers = followers
        self._suspended = 0

    async def run(self, *, timeout: float) -> Drained:
        """timeout: seconds that running turns get. Raises nothing: what fails is logged."""
        running = self._turns.cancelling
        running.drain()
        logger.info("draining: %d turns run, and get %g s", running.begun, timeout)
        ended = 0
        if not await running.until_idle(timeout):
            ended = running.begun
            running.end_all()
            await running.until_idle(ENDING)
        held = self._residency.sessions()
        suspending = asyncio.create_task(self._suspend_all(sorted(held)))
        await asyncio.wait({suspending}, timeout=_SUSPENDING)
        suspending.cancel()
        await asyncio.wait({suspending})
        await self._feed.close()
        await self._followers.close()
        outcome = Drained(ended, self._suspended, len(held) - self._suspended)
        logger.info(
            "drained: %d turns were ended at the limit, %d sessions suspended, %d not",
            outcome.ended,
            outcome.suspended,
            outcome.left,
        )
        return outcome

    async def _suspend_all(self, session_ids: list[str]) -> None:
        waiting = iter(session_ids)

        async def work() -> None:
            for session_id in waiting:
                await self._suspend(session_id)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_A_TIME, len(session_ids))):
                group.create_task(work())

    async def _suspend(self, session_id: str) -> None:
        try:
            await self._sessions.suspend(session_id, SuspendRequest())
            self._suspended += 1
        except NotFound:
            self._suspended += 1  # it was deleted elsewhere
        except (TorporError, EngineError, StoreError) as error:
            logger.warning("%s is not suspended: %s", session_id, error)
        except Exception:  # a fault of this one, and the others still have their time
            logger.exception("%s is not suspended", session_id)
