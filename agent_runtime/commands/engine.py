"""`torpor engine`: start one, and empty it before it is ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from agent_runtime.commands import engine_options
from agent_runtime.commands.engine_options import console
from agent_runtime.commands.store_options import (
    add_archive_option,
    add_master_key_option,
    add_store_options,
    store_url,
)
from agent_runtime.service.signals import ignore_hang_up, stopping
from engine.drain import Drained, drain
from engine.errors import EngineError
from engine.launch import EngineProcess
from engine.pool import EnginePool
from state_store.address import public_url
from state_store.errors import StoreError
from state_store.store import StateStore

DRAIN_TIMEOUT = 120.0
_WATCH = 0.5  # seconds between looks at whether the engine still runs


def add_to(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="engine_command", required=True)

    up = actions.add_parser("up", help="start SGLang and wait until it serves")
    add_store_options(up)
    add_archive_option(up)
    add_master_key_option(up, "of encrypted tenants")
    engine_options.add_to(up)
    up.add_argument("--host", default="127.0.0.1", help="address to listen on")
    up.add_argument("--port", type=int, default=30000, help="of the engine's HTTP server")
    up.add_argument(
        "--advertise",
        default=None,
        metavar="URL",
        help="where runtimes reach it; default: the host, or this machine's address for all hosts",
    )
    up.add_argument("--engine-id", default="engine", help="of no other engine on the store")
    up.add_argument(
        "--drain-timeout",
        type=float,
        default=DRAIN_TIMEOUT,
        help="seconds that running turns get after SIGTERM, or when the terminal is closed",
    )
    up.set_defaults(run=_up, until_stopped=True)

    empty = actions.add_parser("drain", help="have it finish its turns and take no new ones")
    empty.add_argument("engine", help="its id")
    empty.add_argument("--redis", required=True, metavar="URL")
    empty.add_argument(
        "--timeout", type=float, default=DRAIN_TIMEOUT, help="seconds that its turns may take"
    )
    empty.add_argument("--undo", action="store_true", help="let it take turns again")
    empty.set_defaults(run=_drain)


def _up(arguments: argparse.Namespace) -> int:
    with store_url(arguments) as url:
        options = engine_options.options_of(
            arguments,
            url,
            arguments.host,
            arguments.port,
            model=arguments.model,
            archive=arguments.archive,
            master_key=arguments.master_key,
            advertise=arguments.advertise,
            engine_id=arguments.engine_id,
        )
        engine = EngineProcess(options)
        with engine:
            engine_options.wait_until_serving(engine)
            console.print(
                f"engine {options.engine_id} serves at {engine.advertised}, store {public_url(url)}"
            )
            with _terminate_noted() as terminated:
                while engine.is_alive() and not terminated.is_set():
                    terminated.wait(_WATCH)
            if engine.is_alive():
                _drain_at_last(url, engine, arguments.drain_timeout)
                return 0
            assert engine.process is not None
            code = engine.process.returncode
        print(f"torpor: the engine ended with {code} (log: {options.log_file})", file=sys.stderr)
    return 1


def _drain(arguments: argparse.Namespace) -> int:
    if arguments.undo:
        asyncio.run(_undo(arguments.redis, arguments.engine))
        print(f"engine {arguments.engine} takes turns again.")
        return 0
    outcome = asyncio.run(_drained(arguments.redis, arguments.engine, arguments.timeout))
    print(_told(arguments.engine, outcome))
    print("It takes no turns now: end it, or give it turns again with --undo.")
    return 1 if outcome.shortfall else 0


def _drain_at_last(url: str, engine: EngineProcess, timeout: float) -> None:
    """Before the engine is stopped, come what may; another SIGTERM or a Ctrl-C cuts it short."""
    ignore_hang_up()
    engine_id = engine.options.engine_id
    _say(f"engine {engine_id} finishes its turns, for up to {timeout:g} s")
    try:
        outcome = asyncio.run(_drained(url, engine_id, timeout, boot_id=engine.boot_id))
        _say(_told(engine_id, outcome))
    except (EngineError, StoreError) as error:
        _say(f"torpor: {error}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal was closed
        console.print(text)


async def _drained(
    redis_url: str, engine_id: str, timeout: float, *, boot_id: str | None = None
) -> Drained:
    async with await StateStore.connect(redis_url) as store:
        pool = EnginePool(store)
        try:
            engine = await pool.named(engine_id, boot_id=boot_id)
            return await drain(store, engine, timeout=timeout)
        finally:
            await pool.close()


async def _undo(redis_url: str, engine_id: str) -> None:
    async with await StateStore.connect(redis_url) as store:
        pool = EnginePool(store)
        try:
            await (await pool.named(engine_id)).drain(draining=False)
        finally:
            await pool.close()


def _told(engine_id: str, outcome: Drained) -> str:
    shortfall = f" Not everything is safe: {outcome.shortfall}." if outcome.shortfall else ""
    return (
        f"engine {engine_id} is empty after {outcome.waited:.1f} s; what it held is stored "
        f"({outcome.durable}).{shortfall}"
    )


@contextlib.contextmanager
def _terminate_noted() -> Iterator[threading.Event]:
    """In the block, a signal that stops sets the event and does nothing else."""
    noted = threading.Event()
    before = {number: signal.signal(number, lambda *_: noted.set()) for number in stopping()}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
