"""The ledger of effects of a runtime, for who runs tools in another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agent_runtime.sdk.errors import read
from agent_runtime.sdk.requests import path_of
from agent_runtime.wire.effects import Entries, FoundEntry
from tools.effects import Entry

Call = Callable[[str, str, Any], Awaitable[Any]]


class SessionLedger:
    """`tools.effects.Ledger` over HTTP; see `StoreLedger`. Every method raises ApiError or
    ApiUnreachable."""

    def __init__(self, call: Call) -> None:
        """call: sends a method, a path and a JSON body, and returns the JSON answer"""
        self._call = call

    async def find(self, entry: Entry) -> Entry | None:
        return read(FoundEntry, await self._post(entry, "find")).entry

    async def begin(self, entry: Entry) -> Entry | None:
        return read(FoundEntry, await self._post(entry, "begin")).entry

    async def end(self, entry: Entry) -> None:
        await self._post(entry, "end")

    async def inherited(self, entry: Entry) -> list[Entry]:
        return read(Entries, await self._post(entry, "inherited")).entries

    async def of(self, session_id: str, *, lineage: bool = False) -> list[Entry]:
        """What the session's tools have done, in the order it was started; with `lineage`, also
        what those of all branches of its history have."""
        path = path_of("sessions", session_id, "effects") + f"?lineage={str(lineage).lower()}"
        return read(Entries, await self._call("GET", path, None)).entries

    async def _post(self, entry: Entry, what: str) -> Any:
        path = path_of("sessions", entry.branch, "effects", what)
        return await self._call("POST", path, entry.model_dump(mode="json"))
