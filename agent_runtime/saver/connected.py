"""What saver and memory share: a connection of their own to the store."""

from __future__ import annotations

from typing import Any, Self

from state_store.connection import Control


class Connected:
    """Made around a `Control`, or opened by URL and closed as a context manager."""

    _control: Control

    @classmethod
    async def connect(cls, url: str, *, timeout: float = 10.0, **options: Any) -> Self:
        """Open the store at a URL and check that it answers; options as of the class.

        timeout: seconds that any one command may take
        """
        control = await Control.connect(url, timeout=timeout)
        try:
            make: Any = cls
            made: Self = make(control, **options)
        except BaseException:
            await control.close()
            raise
        return made

    async def close(self) -> None:
        await self._control.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
