"""Responses: make, fetch, cancel, delete."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from agent_runtime.chat import ChatFormat
from agent_runtime.conversations import Conversations
from agent_runtime.errors import BadRequest
from agent_runtime.openai_api.messages import Ids
from agent_runtime.openai_api.models import Served
from agent_runtime.openai_api.responses.conversations import ResponseConversations
from agent_runtime.openai_api.responses.creation import Counted, Creation
from agent_runtime.openai_api.responses.events import LAST, Told
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.openai_api.responses.records import ResponseRecord, ResponseRecords
from agent_runtime.openai_api.responses.requests import CreateResponse, unsupported
from agent_runtime.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns import Turns
from state_store.store import StateStore


class Responses:
    """OpenAI's responses, over the runtime's conversations."""

    def __init__(
        self,
        store: StateStore,
        sessions: Sessions,
        turns: Turns,
        conversations: Conversations,
        served: Served,
        chat: ChatFormat | None,
        settings: RuntimeSettings,
    ) -> None:
        self._records = ResponseRecords(store, settings)
        self._creation = Creation(
            store, conversations, turns.stateless, self._records, served, chat
        )
        self.conversations = ResponseConversations(store, sessions, turns, self._records, settings)

    async def create(
        self, request: CreateResponse, *, key: str | None, counted: Counted
    ) -> AsyncGenerator[Told]:
        """Events of a new response, see `Creation.events`. With the same key of idempotency, the
        same response again."""
        if request.background:
            raise unsupported("background", "stream it, or wait for it")
        ids = Ids(key)
        async with contextlib.AsyncExitStack() as stack:
            keep = self._records.put
            if request.conversation_id is None:
                follows = await self._creation.behind(request.previous_response_id)
            else:
                talking = self.conversations.talking(request.conversation_id)
                talk = await stack.enter_async_context(talking)
                follows = talk.follows

                async def keep(record: ResponseRecord) -> None:
                    await self._records.put(record)
                    await talk.went_on(record)

            events = self._creation.events(
                request, follows, key=key, keep=keep, counted=counted, ids=ids
            )
            last: Told | None = None
            async with contextlib.aclosing(events):
                async for told in events:
                    if told["type"] in LAST:
                        last = told
                    else:
                        yield told
        # Only now: who has the last one may go on with the conversation.
        if last is not None:
            yield last

    async def get(self, response_id: str) -> dict[str, Any]:
        """As it is shown. Raises NotFound."""
        return (await self._records.get(response_id))[0].response

    async def input_items(self, response_id: str) -> list[Item]:
        """The earliest first. Raises NotFound."""
        record, _ = await self._records.get(response_id)
        items, _ = await self._records.history(record)
        return items[: len(items) - len(record.response["output"])]

    async def delete(self, response_id: str) -> None:
        """Its session stays, with what the model knows. Raises NotFound."""
        await self._records.delete(response_id)

    async def cancel(self, response_id: str) -> dict[str, Any]:
        """Raises NotFound, BadRequest."""
        await self._records.get(response_id)
        raise BadRequest(
            f"{response_id} was not made in the background: it is whole, and cannot be cancelled. "
            "One that is streamed is cancelled by closing the connection."
        )
