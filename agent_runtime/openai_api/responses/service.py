"""Responses: make, fetch, cancel, delete."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from agent_runtime.caller.standing import outlive_key
from agent_runtime.errors import BadRequest, NotFound
from agent_runtime.http.metrics import Metrics
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api.messages import Ids
from agent_runtime.openai_api.responses.background import Background, BackgroundRecord
from agent_runtime.openai_api.responses.conversations import ResponseConversations
from agent_runtime.openai_api.responses.creation import Creation, Follows, Keep
from agent_runtime.openai_api.responses.events import LAST, Telling, Told
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.openai_api.responses.records import ResponseRecord, ResponseRecords
from agent_runtime.openai_api.responses.requests import CreateResponse
from agent_runtime.openai_api.responses.shown import replayed
from agent_runtime.openai_api.served import Served
from agent_runtime.sessions.conversations import Conversations
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.idempotency import part_of
from agent_runtime.turns.turns import Turns
from state_store.errors import StoreError
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
        metrics: Metrics,
    ) -> None:
        self._records = ResponseRecords(store, settings)
        self._creation = Creation(
            store, conversations, turns.stateless, self._records, served, chat, metrics, settings
        )
        self.conversations = ResponseConversations(store, sessions, turns, self._records, settings)
        self._claims = turns.claims
        self._background = Background(store, settings, turns.cancelling, self._made)

    async def create(self, request: CreateResponse, *, key: str | None) -> AsyncGenerator[Told]:
        """Events of a new response, see `Creation.events`. With the same key of idempotency, the
        same response again. Raises KeyReused."""
        if key is not None:
            key = await self._claimed(key, request)
        ids = Ids(key)
        if key is not None:
            with contextlib.suppress(NotFound):
                record, _ = await self._records.get(ids.of("resp_"))
                await self.conversations.catch_up(record)
                for told in Telling(ids, ()).again(replayed(record.response)):
                    yield told
                return
        events = self._events(request, ids, key=key, created_at=int(time.time()))
        async with contextlib.aclosing(events):
            async for told in events:
                yield told

    async def begin(self, request: CreateResponse, *, key: str | None) -> dict[str, Any]:
        """A response that is made in the background, as it is now. Raises what `Creation.read`
        raises, PreviousResponseNotFound, LastResponseGone, NotFound, VaultLocked, KeyReused,
        Draining."""
        key = uuid.uuid4().hex if key is None else await self._claimed(key, request)
        ids = Ids(key)
        with contextlib.suppress(NotFound):
            found = await self._found(ids.of("resp_"))
            if isinstance(found, ResponseRecord):
                await self.conversations.catch_up(found)
            return found.response
        follows = await self._creation.behind(request.previous_response_id)
        if request.conversation_id is not None:
            follows = await self.conversations.follows(request.conversation_id)
        asked = await self._creation.read(request, follows, ids)
        begun = self._creation.begun(
            asked, instructions=request.instructions, created_at=int(time.time())
        )
        record = BackgroundRecord(
            response=begun | {"status": "queued"},
            input=asked.items,
            request=request,
            key=key,
        )
        await self._background.begin(record)
        return record.response

    async def get(self, response_id: str) -> dict[str, Any]:
        """As it is shown. Raises NotFound."""
        found = await self._found(response_id)
        return found.response

    async def input_items(self, response_id: str) -> list[Item]:
        """The earliest first. Raises NotFound."""
        found = await self._found(response_id)
        if isinstance(found, BackgroundRecord):
            return found.input
        items, _ = await self._records.history(found)
        return items[: len(items) - len(found.response["output"])]

    async def delete(self, response_id: str) -> None:
        """Its session stays, with what the model knows, and its items stay those of its
        conversation. Raises NotFound, BadRequest, ConversationLocked."""
        found = await self._found(response_id)
        if isinstance(found, BackgroundRecord):
            await self._background.delete(found)
        else:
            await self.conversations.take_away(found)

    async def cancel(self, response_id: str) -> dict[str, Any]:
        """As it is when it is over. Raises NotFound, BadRequest."""
        found = await self._found(response_id)
        if not found.response["background"]:
            raise BadRequest(
                f"{response_id} was not made in the background: it is whole, and cannot be "
                "cancelled. One that is streamed is cancelled by closing the connection."
            )
        if isinstance(found, BackgroundRecord) and found.is_running:
            await self._background.cancel(found)
        return await self.get(response_id)

    async def close(self) -> None:
        await self._background.close()

    async def _claimed(self, key: str, request: CreateResponse) -> str:
        """The key that the response is made with. Another one once the claim has expired: by then
        the first response may still be kept, under ids of its own. Raises KeyReused."""
        seed = uuid.uuid4().hex
        claim, _ = await self._claims.claim(part_of(key, "response"), "a response", request, [seed])
        return part_of(key, claim.ids[0])

    async def _found(self, response_id: str) -> ResponseRecord | BackgroundRecord:
        """Raises NotFound."""
        try:
            return (await self._records.get(response_id))[0]
        except NotFound:
            # It may have come to its end in between.
            waiting = await self._background.get(response_id)
            return waiting or (await self._records.get(response_id))[0]

    async def _made(self, record: BackgroundRecord) -> AsyncGenerator[Told]:
        outlive_key()
        ids = Ids(record.key)
        created_at = int(record.response["created_at"])
        events = self._events(record.request, ids, key=record.key, created_at=created_at)
        async with contextlib.aclosing(events):
            async for told in events:
                yield told

    async def _events(
        self, request: CreateResponse, ids: Ids, *, key: str | None, created_at: int
    ) -> AsyncGenerator[Told]:
        last: Told | None = None
        async with self._before(request) as (follows, keep):
            asked = await self._creation.read(request, follows, ids)
            events = self._creation.events(
                asked, follows, key=key, keep=keep, created_at=created_at
            )
            async with contextlib.aclosing(events):
                async for told in events:
                    if told["type"] in LAST:
                        last = told
                    else:
                        yield told
        # Only now: who has the last one may go on with the conversation.
        if last is not None:
            yield last

    @contextlib.asynccontextmanager
    async def _before(self, request: CreateResponse) -> AsyncIterator[tuple[Follows, Keep]]:
        """What comes before the response, and what is to be done when it is whole."""
        if request.conversation_id is None:
            yield await self._creation.behind(request.previous_response_id), self._keep
            return
        async with self.conversations.talking(request.conversation_id) as talk:

            async def keep(record: ResponseRecord, parent: str | None) -> None:
                record = record.model_copy(update={"behind": talk.last})
                await self._keep(record, parent)
                try:
                    await talk.went_on(record)
                except StoreError:  # it is said not to be kept, and a retry makes both
                    await self._records.delete(record)
                    raise

            yield talk.follows, keep

    async def _keep(self, record: ResponseRecord, parent: str | None) -> None:
        await self._records.put(record, parent=parent)
