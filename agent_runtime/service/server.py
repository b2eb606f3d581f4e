"""Running the HTTP service in this process, in the foreground, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator

import uvicorn

from agent_runtime.errors import SetupError
from agent_runtime.http.request_ids import JsonLines
from agent_runtime.service.api import create_app
from agent_runtime.service.connections import connections
from agent_runtime.service.signals import ignore_hang_up, stopping
from agent_runtime.service.tls import require_certificate
from agent_runtime.sessions.draining import Drain, Drained
from agent_runtime.settings import ServiceSettings
from agent_runtime.telemetry import telemetry_from
from engine.launch import require_free_port
from state_store.store import StateStore

logger = logging.getLogger(__name__)

_WATCH = 0.5  # seconds between looks at what the service depends on
_LAST = 5  # seconds that requests get which still run when the service is drained


async def serve(
    settings: ServiceSettings, *, failed: Callable[[], str | None] = lambda: None
) -> None:
    """Serve until SIGINT or what else stops a service (`stopping`), which drains the runtime first:
    see `sessions/draining.py`. Another one cuts that short, but for SIGHUP.

    failed: looked at twice a second; a message from it ends the service with SetupError.
    Raises SetupError, also for an address that others can reach without keys and for a certificate
    that cannot be shown; EngineStartFailed when the port is taken, StoreUnavailable when the store
    does not answer.
    """
    settings.require_keys_beyond_loopback()
    if settings.tls_certificate is not None:
        require_certificate(settings.tls_certificate, settings.tls_key)
    require_free_port(settings.host, settings.port)
    async with await StateStore.connect(
        settings.redis_url,
        prefix=settings.prefix,
        archive=settings.archive_url,
        vault=settings.vault(),
    ):
        pass  # a clear error now, before uvicorn reports a failed start in its own way
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per look at an engine
    _log_to_stderr(settings.json_log)
    telemetry = telemetry_from(os.environ)
    app = create_app(settings, telemetry)
    # All that was imported stays. A large body makes so many objects that they are collected in the
    # middle of it, and each time all of that would be looked at again.
    gc.collect()
    gc.freeze()
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            http=connections(unread_seconds=settings.unread_seconds),
            log_level="warning",
            log_config=None,
            timeout_graceful_shutdown=_LAST,
        )
    )
    draining: list[asyncio.Task[Drained]] = []

    def stop(number: signal.Signals) -> None:
        if draining and number == signal.SIGHUP:
            return  # the kernel sends it, and mostly the shell as well
        if draining or not server.started:
            server.stop()
            return
        drain: Drain = app.state.drain
        draining.append(asyncio.create_task(drain.run(timeout=settings.drain_timeout)))
        draining[0].add_done_callback(lambda _: server.stop())

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, *stopping()):
        loop.add_signal_handler(number, stop, number)
    serving = asyncio.create_task(server.serve())
    reason: str | None = None
    is_told = False
    while not serving.done():
        await asyncio.wait({serving}, timeout=_WATCH)
        if server.started and not is_told:
            logger.info("serving at %s, in a browser at %s/console", settings.url, settings.url)
            is_told = True
        reason = reason or failed()
        if reason is not None:
            server.stop()
    await serving
    loop.remove_signal_handler(signal.SIGHUP)
    ignore_hang_up()
    for task in draining:
        task.cancel()  # cut short
    await asyncio.gather(*draining, return_exceptions=True)
    await asyncio.to_thread(telemetry.close)
    if reason is not None:
        raise SetupError(reason)
    if not server.started:
        raise SetupError(f"the service could not start on {settings.host}:{settings.port}.")


def _log_to_stderr(json_log: bool) -> None:
    line = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if json_log else line)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _Server(uvicorn.Server):
    """A server that leaves signals to us: uvicorn raises them again when it has stopped, in the
    middle of whatever the program then does."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
