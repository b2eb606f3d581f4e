"""Responses as they are kept: with the session that their snapshot is in, and gone with it.

    note of the tenant: response id ──> session ── attachments: response id ──> record

A record has what the request said and what was answered, and not what came before: that is in the
record of the response that it follows.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from agent_runtime.access.identity import current_tenant
from agent_runtime.errors import NotFound
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.settings import RuntimeSettings
from state_store import errors as store_errors
from state_store.records import Session
from state_store.store import StateStore


class ResponseRecord(BaseModel):
    """One response.

    response: as it is shown
    input:    the items of the request
    snapshot: that it is, in `session_id`
    previous: id of the response that it follows
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    response: dict[str, Any]
    input: list[Item]
    session_id: str
    snapshot: str
    previous: str | None = None

    @property
    def id(self) -> str:
        return str(self.response["id"])


class ResponseRecords:
    """Of the tenant who asks. What is another's is not there."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._settings = settings

    async def put(self, record: ResponseRecord) -> None:
        """Raises NotFound if its session is gone."""
        session = await self._store.session(record.session_id)
        ttl = self._settings.response_ttl
        packed = record.model_dump_json(exclude_defaults=True).encode()
        await self._store.attachments.put(session, _name(record.id), packed, ttl=ttl)
        place = session.id.encode()
        await self._store.notes.put(self._tenant, _name(record.id), place, ttl=ttl)

    async def get(self, response_id: str) -> tuple[ResponseRecord, Session]:
        """With its session as it is now. Raises NotFound."""
        session = await self._session(response_id)
        found = await self._store.attachments.get(session, _name(response_id))
        if found is None:
            raise _not_found(response_id)
        return ResponseRecord.model_validate_json(found), session

    async def delete(self, response_id: str) -> None:
        """Raises NotFound."""
        session = await self._session(response_id)
        if not await self._store.attachments.delete(session, _name(response_id)):
            raise _not_found(response_id)
        await self._store.notes.delete(self._tenant, _name(response_id))

    async def history(self, record: ResponseRecord) -> tuple[list[Item], bool]:
        """All items that led to the response, its own output last; and whether none is missing,
        since no response before it was deleted."""
        chain, is_whole = [record], True
        while chain[-1].previous is not None:
            try:
                before, _ = await self.get(chain[-1].previous)
            except NotFound:
                is_whole = False
                break
            chain.append(before)
        items = [item for one in reversed(chain) for item in (*one.input, *one.response["output"])]
        return items, is_whole

    async def _session(self, response_id: str) -> Session:
        (place,) = await self._store.notes.get(self._tenant, [_name(response_id)])
        if place is None:
            raise _not_found(response_id)
        try:
            return await self._store.session(place.decode(), tenant=self._tenant)
        except store_errors.NotFound:
            raise _not_found(response_id) from None

    @property
    def _tenant(self) -> str:
        return current_tenant(self._settings.tenant)


def _not_found(response_id: str) -> NotFound:
    return NotFound(
        f"no response {response_id[:100]}: it was not kept, or is deleted or expired, or its "
        "session is."
    )


def _name(response_id: str) -> str:
    return f"response:{response_id}"
