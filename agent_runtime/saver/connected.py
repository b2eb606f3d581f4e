"""What saver and memory share: a connection of their own to the store, and its event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, Self, TypeVar

from agent_runtime.errors import AsyncOnly
from agent_runtime.saver.sealing import sealing_of
from agent_runtime.sdk.loops import LoopThread, run_in
from state_store.connection import Control
from state_store.vault import Vault

_T = TypeVar("_T")


class Connected:
    """Made around a `Control`, or opened by URL and closed as a context manager.

    Synchronous methods hand their work to the event loop that `connect` ran in, or to one that
    `blocking` starts, and wait for it.
    """

    _control: Control
    _loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        timeout: float = 10.0,
        tenant: str | None = None,
        vault: Vault | None = None,
        store_prefix: str = "torpor",
        prefix: str = "torpor:graph",
        **options: Any,
    ) -> Self:
        """Open the store at a URL and check that it answers; options as of the class.

        timeout: seconds that any one command may take
        tenant: whose all of it is, apart from what others and nobody have there: sealed with its
                key if it is encrypted, which is kept until this is closed. It must have been made.
        vault: the master keys of encrypted tenants; store_prefix: of the store that has the tenant

        Raises NotFound, TenantDeleted, VaultLocked, InvalidKey, InvalidTenant for the tenant.
        """
        control = await Control.connect(url, timeout=timeout)
        try:
            if tenant is not None:
                prefix = f"{prefix}:of:{tenant}"
                options["sealing"] = await sealing_of(
                    control, tenant, prefix, vault=vault, store_prefix=store_prefix
                )
            make: Any = cls
            made: Self = make(control, prefix=prefix, **options)
        except BaseException:
            await control.close()
            raise
        made._loop = asyncio.get_running_loop()
        return made

    @classmethod
    @contextlib.contextmanager
    def blocking(cls, url: str, *, timeout: float = 10.0, **options: Any) -> Iterator[Self]:
        """As `connect`, for code without an event loop: one runs in a thread until the end."""
        with LoopThread() as thread:
            made = thread.run(cls.connect(url, timeout=timeout, **options))
            try:
                yield made
            finally:
                thread.run(made.close())

    async def close(self) -> None:
        await self._control.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _awaited(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`. Raises AsyncOnly where the thread would wait for itself."""
        try:
            loop = self._other_loop()
        except AsyncOnly:
            work.close()
            raise
        return run_in(loop, work)

    def _other_loop(self) -> asyncio.AbstractEventLoop:
        """Of another thread. Raises AsyncOnly."""
        name, running = type(self).__name__, None
        if self._loop is None or self._loop.is_closed():
            raise AsyncOnly(
                f"this {name} has no event loop to work in: open it by `{name}.blocking(url)`, or "
                "by `connect`, and use the asynchronous methods."
            )
        with contextlib.suppress(RuntimeError):
            running = asyncio.get_running_loop()
        if running is self._loop:
            raise AsyncOnly(
                f"this {name} would wait for itself: in a coroutine use the asynchronous methods "
                "(ainvoke, aget_state, aput), or do this in another thread."
            )
        return self._loop
