"""What passes by itself where servers replace each other, and how long to wait for it.

Whatever is tried again may have been done already, and its answer lost: everything that the store
sends can be sent twice.
"""

from __future__ import annotations

import asyncio
import builtins
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

_T = TypeVar("_T")
TURNS = 96  # a few less than redis-py's limit of connections to one server
_PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds before another attempt; the last repeats

# No class of redis-py's: too few replicas are left to write; a script met a key of its slot that
# has moved to another master already; a wait on a master that has just lost its role.
_PASSING = ("NOREPLICAS", "non local key", "UNBLOCKED", "cluster is down")
_LOGIN = (AuthenticationError, AuthorizationError, NoPermissionError)


def is_login(error: BaseException | None) -> bool:
    """Whether a server let the client in, or wherever connecting to it failed, did not."""
    while error is not None:
        if isinstance(error, _LOGIN):
            return True
        error = error.__cause__
    return False


def is_untrusted(error: BaseException | None) -> bool:
    """Whether a server showed a certificate that is not trusted here."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_passing(error: BaseException) -> bool:
    """Whether another server, or the same one later, may do what failed with `error`."""
    if is_login(error) or is_untrusted(error):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, OSError)):
        # What the server said to a new connection is its last word on it.
        return not isinstance(error.__cause__, ResponseError)
    if isinstance(error, RedisClusterException):  # no map of slots, or not of all
        return not isinstance(error.__cause__, RedisClusterException)
    if isinstance(error, (AskError, ClusterDownError, ReadOnlyError, TryAgainError)):
        return True
    return isinstance(error, ResponseError) and any(text in str(error) for text in _PASSING)


class Patience:
    """Attempts at one thing until `timeout` seconds have passed."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._failures = 0

    async def wait(self, error: BaseException) -> None:
        """Before another attempt. Raises `error` if there is no time for one."""
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        if time.monotonic() + pause > self._deadline:
            raise error
        self._failures += 1
        await asyncio.sleep(pause)


class Turns:
    """At most `TURNS` commands under way at once; others wait for up to `timeout` seconds, and
    raise redis-py's ConnectionError then."""

    def __init__(self, timeout: float) -> None:
        self._free = asyncio.Semaphore(TURNS)
        self._timeout = timeout

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except builtins.TimeoutError:
            raise ConnectionError(
                f"{TURNS} commands were under way for {self._timeout:g} s"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        self._free.release()


async def patiently(attempt: Callable[[], Awaitable[_T]], *, timeout: float) -> _T:
    """The result of `attempt`, made again for as long as what it raises is passing."""
    patience = Patience(timeout)
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not is_passing(error):
                raise
            await patience.wait(error)
