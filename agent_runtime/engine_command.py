"""`torpor engine drain`: empty an engine before it is ended."""

from __future__ import annotations

import argparse
import asyncio

from engine.drain import Drained, drain
from engine.pool import EnginePool
from state_store.store import StateStore

DRAIN_TIMEOUT = 120.0


def add_drain_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `drain` to the subcommands of `torpor engine`."""
    parser = commands.add_parser("drain", help="have it finish its turns and take no new ones")
    parser.add_argument("engine", help="its id")
    parser.add_argument("--redis", required=True, metavar="URL")
    parser.add_argument(
        "--timeout", type=float, default=DRAIN_TIMEOUT, help="seconds that its turns may take"
    )
    parser.add_argument("--undo", action="store_true", help="let it take turns again")
    parser.set_defaults(run=_run)


async def drained(redis_url: str, engine_id: str, *, timeout: float) -> Drained:
    """Drain an engine by its id. Raises what `engine.drain.drain` raises, and NoEngine."""
    async with await StateStore.connect(redis_url) as store:
        pool = EnginePool(store)
        try:
            return await drain(store, await pool.named(engine_id), timeout=timeout)
        finally:
            await pool.close()


def told(engine_id: str, outcome: Drained) -> str:
    """What to say to people."""
    shortfall = f" Not everything is safe: {outcome.shortfall}." if outcome.shortfall else ""
    return (
        f"engine {engine_id} is empty after {outcome.waited:.1f} s; what it held is stored "
        f"({outcome.durable}).{shortfall}"
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.undo:
        asyncio.run(_undo(arguments.redis, arguments.engine))
        print(f"engine {arguments.engine} takes turns again.")
        return 0
    outcome = asyncio.run(drained(arguments.redis, arguments.engine, timeout=arguments.timeout))
    print(told(arguments.engine, outcome))
    print("It takes no turns now: end it, or give it turns again with --undo.")
    return 1 if outcome.shortfall else 0


async def _undo(redis_url: str, engine_id: str) -> None:
    async with await StateStore.connect(redis_url) as store:
        pool = EnginePool(store)
        try:
            await (await pool.named(engine_id)).drain(draining=False)
        finally:
            await pool.close()
