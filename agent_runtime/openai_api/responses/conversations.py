"""OpenAI's conversations: a name for the response that was last, and what was said since.

    conversation ── last ──> response ── previous ──> response …
               └─ pending items: said, and not answered

To delete a response leaves its items to the conversation, as OpenAI documents it.

A conversation is kept with an empty session of its own, whose lease is held while it is answered:
of two who go on with it at once one is refused. To delete an item changes what was said: the next
response has all that is left rendered anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import ConversationLocked, LastResponseGone, NotFound
from agent_runtime.noted import noted
from agent_runtime.openai_api.messages import Ids
from agent_runtime.openai_api.responses.creation import Follows
from agent_runtime.openai_api.responses.items import Item, distinct, items_of, said_in
from agent_runtime.openai_api.responses.records import ResponseRecord, ResponseRecords
from agent_runtime.openai_api.responses.requests import NOTHING_DONE
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.sessions import CreateSession
from state_store import errors as store_errors
from state_store.errors import LeaseHeld
from state_store.records import Session
from state_store.store import StateStore

_NAME = "conversation"
_ID = re.compile(r"conv_([0-9a-f]{16})([0-9a-f]{16})")


class ConversationRecord(BaseModel):
    """One conversation.

    last:    id of the response that was last
    pending: items that were added since
    deleted: ids of items in the responses that are no part of it any more
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    created_at: int
    metadata: dict[str, str] = {}
    last: str | None = None
    pending: list[Item] = []
    deleted: list[str] = []

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


class Talk:
    """A conversation that is being answered. follows: what the response goes on from"""

    def __init__(
        self, talks: ResponseConversations, session: Session, record: ConversationRecord,
        follows: Follows,
    ) -> None:  # fmt: skip
        self._talks = talks
        self._session = session
        self._record = record
        self.follows = follows

    @property
    def last(self) -> str | None:
        """Id of its last response."""
        return self._record.last

    async def went_on(self, response: ResponseRecord) -> None:
        """Its last response is this one, which has read all that was pending."""
        update = {"last": response.id, "pending": [], "deleted": []}
        await self._talks.put(self._session, self._record.model_copy(update=update))


class ResponseConversations:
    """Of the tenant who asks. Every method raises NotFound, and ConversationLocked if it changes
    what somebody else is changing."""

    def __init__(
        self,
        store: StateStore,
        sessions: Sessions,
        turns: Turns,
        records: ResponseRecords,
        settings: RuntimeSettings,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._turns = turns
        self._records = records
        self._settings = settings

    async def create(
        self, items: Sequence[dict[str, Any]], metadata: dict[str, str]
    ) -> ConversationRecord:
        """Raises NoEngine, VaultLocked, NoBackend, QuotaExceeded; what `items_of` raises."""
        pending = distinct(_read(items), (), Ids())
        session_id = self._store.new_session_id()
        record = ConversationRecord(
            id="conv_" + session_id.removeprefix("ses-").replace("-", ""),
            created_at=int(time.time()),
            metadata=metadata,
            pending=pending,
        )
        try:
            await self._sessions.make(CreateSession(labels={"holds": "conversation"}), session_id)
            await self.put(await self._store.session(session_id), record)
        except BaseException:  # nobody would ever know of the session
            await asyncio.shield(self._forget(session_id))
            raise
        return record

    async def get(self, conversation_id: str) -> ConversationRecord:
        return (await self._get(conversation_id))[1]

    async def update(self, conversation_id: str, metadata: dict[str, str]) -> ConversationRecord:
        async with self._changing(conversation_id) as (session, record):
            changed = record.model_copy(update={"metadata": metadata})
            await self.put(session, changed)
        return changed

    async def delete(self, conversation_id: str) -> None:
        """Its responses stay, and can be followed; what is left of deleted ones goes with it."""
        session, record = await self._get(conversation_id)
        for response in await self._chain(record):
            if response.deleted:
                await self._records.delete(response)
        await self._sessions.delete(session.id)

    async def take_away(self, response: ResponseRecord) -> None:
        """Delete a response. Its items stay those of the conversation that it is a part of."""
        if response.conversation_id is not None:
            with contextlib.suppress(NotFound):  # then the conversation is deleted
                async with self._changing(response.conversation_id) as (_, record):
                    if any(one.id == response.id for one in await self._chain(record)):
                        await self._records.hide(response)
                        return
        await self._records.delete(response)

    async def items(self, conversation_id: str) -> list[Item]:
        """The earliest first."""
        record = await self.get(conversation_id)
        said, _ = await self._said(record)
        return [*said, *record.pending]

    async def add(self, conversation_id: str, items: Sequence[dict[str, Any]]) -> list[Item]:
        """Raises what `items_of` raises."""
        given = _read(items)
        async with self._changing(conversation_id) as (session, record):
            said, _ = await self._said(record)
            taken = {item["id"] for item in (*said, *record.pending)} | set(record.deleted)
            added = distinct(given, taken, Ids())
            pending = [*record.pending, *added]
            await self.put(session, record.model_copy(update={"pending": pending}))
        return added

    async def remove(self, conversation_id: str, item_id: str) -> ConversationRecord:
        async with self._changing(conversation_id) as (session, record):
            said, _ = await self._said(record)
            if all(item["id"] != item_id for item in (*said, *record.pending)):
                raise _no_item(item_id, conversation_id)
            pending = [item for item in record.pending if item["id"] != item_id]
            was_pending = len(pending) < len(record.pending)
            deleted = record.deleted if was_pending else [*record.deleted, item_id]
            update = {"pending": pending, "deleted": deleted}
            await self.put(session, record.model_copy(update=update))
        return record

    async def follows(self, conversation_id: str) -> Follows:
        """What a response would go on from now. Raises LastResponseGone."""
        return await self._follows(await self.get(conversation_id))

    @contextlib.asynccontextmanager
    async def talking(self, conversation_id: str) -> AsyncIterator[Talk]:
        """For the length of the block, nobody else goes on with it. Raises LastResponseGone."""
        async with self._changing(conversation_id) as (session, record):
            yield Talk(self, session, record, await self._follows(record))

    async def catch_up(self, response: ResponseRecord) -> None:
        """Go on with a response that was kept when nothing could be written of its conversation any
        more, unless somebody has gone on without it."""
        name = response.conversation_id
        if name is None:
            return
        with contextlib.suppress(NotFound):  # then the conversation is deleted
            if (await self.get(name)).last != response.behind:
                return
            async with self._changing(name) as (session, record):
                if record.last != response.behind:
                    return
                read = {item["id"] for item in response.input}
                pending = [item for item in record.pending if item["id"] not in read]
                update = {"last": response.id, "pending": pending}
                await self.put(session, record.model_copy(update=update))

    async def put(self, session: Session, record: ConversationRecord) -> None:
        packed = record.model_dump_json(exclude_defaults=True).encode()
        await self._store.attachments.put(session, _NAME, packed, ttl=self._settings.response_ttl)

    async def _forget(self, session_id: str) -> None:
        with contextlib.suppress(store_errors.StoreError):  # the first error is the one to tell
            await self._sessions.delete(session_id)

    async def _follows(self, record: ConversationRecord) -> Follows:
        if record.last is None:
            return Follows(pending=record.pending)
        try:
            last, at = await self._records.kept(record.last)
        except NotFound:
            raise LastResponseGone(
                f"{record.last}, the last response of {record.id}, has expired or its session was "
                f"deleted, and the conversation cannot go on without it. {NOTHING_DONE} Create a "
                "new one with the items that it is to begin with.",
                param="conversation",
            ) from None
        if not record.deleted:
            return Follows(last, at, record.pending)
        left, is_whole = await self._said(record)
        return Follows(last, at, record.pending, left, is_whole)

    async def _said(self, record: ConversationRecord) -> tuple[list[Item], bool]:
        """Items of its responses, but those that were deleted; and whether none is missing, since
        no response was deleted."""
        if record.last is None:
            return [], True
        try:
            last, _ = await self._records.kept(record.last)
        except NotFound:
            return [], False
        said, is_whole = await self._records.history(last)
        return [item for item in said if item["id"] not in record.deleted], is_whole

    async def _chain(self, record: ConversationRecord) -> list[ResponseRecord]:
        """Its responses, the latest first."""
        if record.last is None:
            return []
        try:
            last, _ = await self._records.kept(record.last)
        except NotFound:
            return []
        return (await self._records.chain(last))[0]

    @contextlib.asynccontextmanager
    async def _changing(
        self, conversation_id: str
    ) -> AsyncGenerator[tuple[Session, ConversationRecord]]:
        session, _ = await self._get(conversation_id)
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._turns.writing(session.id))
            except LeaseHeld as error:
                raise ConversationLocked(
                    f"{conversation_id} is being gone on with; nothing was done. Ask again when "
                    "that is over."
                ) from error
            yield await self._get(conversation_id)

    async def _get(self, conversation_id: str) -> tuple[Session, ConversationRecord]:
        match = _ID.fullmatch(conversation_id)
        try:
            if match is not None:
                session_id = f"ses-{match[1]}-{match[2]}"
                tenant = current_tenant(self._settings.tenant)
                session = await self._store.session(session_id, tenant=tenant)
                found = await self._store.attachments.get(session, _NAME)
                if found is not None:
                    return session, noted(ConversationRecord, found, conversation_id)
        except store_errors.NotFound:
            pass
        raise NotFound(f"no conversation {conversation_id[:100]}: it is deleted, or expired.")


def item_in(items: Sequence[Item], item_id: str, conversation_id: str) -> Item:
    """Raises NotFound."""
    for item in items:
        if item["id"] == item_id:
            return item
    raise _no_item(item_id, conversation_id)


def _read(items: Sequence[dict[str, Any]]) -> list[Item]:
    read = items_of(items, Ids(), "items")
    said_in(read)  # raises for calls that cannot be read
    return read


def _no_item(item_id: str, conversation_id: str) -> NotFound:
    return NotFound(f"no item {item_id[:100]} in {conversation_id}.")
