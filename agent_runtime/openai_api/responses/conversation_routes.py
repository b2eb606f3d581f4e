"""OpenAI's `/v1/conversations`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field

from agent_runtime.errors import TorporError
from agent_runtime.openai_api.chat_models import Metadata
from agent_runtime.openai_api.errors import refusals
from agent_runtime.openai_api.responses.conversations import ResponseConversations, item_in
from agent_runtime.openai_api.responses.paging import Page, Paged
from agent_runtime.openai_api.responses.service import Responses
from agent_runtime.wire.lists import FewFields
from engine.errors import EngineError
from state_store.errors import StoreError

router = APIRouter(
    prefix="/v1/conversations", responses=refusals(TorporError, StoreError, EngineError)
)

Items = Annotated[list[dict[str, Any]], Field(max_length=20)]


class _Body(FewFields):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NewConversation(_Body):
    items: Items | None = None
    metadata: Metadata | None = None


class ChangedConversation(_Body):
    metadata: Metadata | None


class NewItems(_Body):
    items: Items


def _conversations(http: Request) -> ResponseConversations:
    responses: Responses = http.app.state.responses
    return responses.conversations


Asked = Annotated[ResponseConversations, Depends(_conversations)]


@router.post("")
async def create(conversations: Asked, request: NewConversation) -> dict[str, Any]:
    return (await conversations.create(request.items or (), request.metadata or {})).shown()


@router.get("/{conversation_id}")
async def get(conversations: Asked, conversation_id: str) -> dict[str, Any]:
    return (await conversations.get(conversation_id)).shown()


@router.post("/{conversation_id}")
async def update(
    conversations: Asked, conversation_id: str, request: ChangedConversation
) -> dict[str, Any]:
    return (await conversations.update(conversation_id, request.metadata or {})).shown()


@router.delete("/{conversation_id}")
async def delete(conversations: Asked, conversation_id: str) -> dict[str, Any]:
    await conversations.delete(conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.get("/{conversation_id}/items")
async def list_items(conversations: Asked, conversation_id: str, page: Paged) -> dict[str, Any]:
    return page.of(await conversations.items(conversation_id))


@router.post("/{conversation_id}/items")
async def add_items(
    conversations: Asked, conversation_id: str, request: NewItems
) -> dict[str, Any]:
    """They are read with the next response."""
    added = await conversations.add(conversation_id, request.items)
    return Page(after=None, limit=len(added) or 1, order="asc").of(added)


@router.get("/{conversation_id}/items/{item_id}")
async def get_item(conversations: Asked, conversation_id: str, item_id: str) -> dict[str, Any]:
    return item_in(await conversations.items(conversation_id), item_id, conversation_id)


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(conversations: Asked, conversation_id: str, item_id: str) -> dict[str, Any]:
    return (await conversations.remove(conversation_id, item_id)).shown()
