"""The control connection: redis-py, our errors, and the Lua scripts of this package."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from state_store.address import public_url
from state_store.errors import StoreRefused, StoreUnavailable

_SCRIPTS = Path(__file__).with_name("lua")


class Control:
    """Small commands and scripts, asynchronously. Raises StoreUnavailable and StoreRefused."""

    def __init__(self, url: str, *, timeout: float) -> None:
        try:
            self.redis = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                # A pooled connection may have gone stale. Every script may run twice.
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            )
        except ValueError as error:
            # Its text may quote a piece of the password.
            raise StoreUnavailable(
                f"{public_url(url)!r} is not a Redis URL; use redis://, rediss:// or unix://."
            ) from error
        self.url = public_url(url)
        self.timeout = timeout
        self._scripts = {
            path.stem: self.redis.register_script(path.read_text("utf-8"))
            for path in sorted(_SCRIPTS.glob("*.lua"))
        }

    async def close(self) -> None:
        await self.redis.aclose()

    @contextlib.asynccontextmanager
    async def guard(self) -> AsyncIterator[Any]:
        """The client, with redis-py's errors turned into ours.

        Untyped: redis-py's annotations allow decoded replies everywhere, and ours are all raw.
        """
        try:
            yield self.redis
        except AuthenticationError as error:
            raise StoreRefused(f"the store at {self.url} refused the login: {error}") from error
        except (ConnectionError, TimeoutError, OSError) as error:
            if isinstance(error.__cause__, (AuthenticationError, ResponseError)):  # from connecting
                raise StoreRefused(f"the store at {self.url} refused the login: {error}") from error
            raise StoreUnavailable(f"the store at {self.url} does not answer: {error}") from error
        except RedisError as error:
            raise StoreRefused(f"the store at {self.url} refused a command: {error}") from error

    async def run(self, script: str, keys: Sequence[str | bytes], *arguments: Any) -> Any:
        """Run `lua/<script>.lua`."""
        async with self.guard():
            return await self._scripts[script](keys=list(keys), args=list(arguments))

    async def run_many(
        self, script: str, calls: Sequence[tuple[Sequence[str | bytes], Sequence[Any]]]
    ) -> list[Any]:
        """Run a script once per (keys, arguments), in one round trip; each run is atomic."""
        if not calls:
            return []
        known = self._scripts[script]
        for attempt in (1, 2):
            async with self.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for keys, arguments in calls:
                    pipeline.evalsha(known.sha, len(keys), *keys, *arguments)
                try:
                    return list(await pipeline.execute())
                except NoScriptError:
                    if attempt == 2:
                        raise
                    await client.script_load(known.script)
        raise AssertionError("unreachable")
