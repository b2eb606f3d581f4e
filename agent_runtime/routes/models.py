"""`/v1/models`: what this runtime serves, and which of it a request asks for.

OpenAI's and Anthropic's clients ask the same path; Anthropic's say so by `anthropic-version`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict

from agent_runtime.anthropic_api.errors import ErrorBody, documented
from agent_runtime.anthropic_api.models import AnthropicModel, AnthropicModels
from agent_runtime.errors import ModelNotFound, NotFound
from agent_runtime.http.document import Responses
from agent_runtime.openai_api.errors import OpenAIErrorBody, refusals
from agent_runtime.openai_api.served import ModelView, served


def _refusals(*trees: type[Exception]) -> Responses:
    """In both forms, whose statuses and codes differ."""
    forms = (refusals(*trees), documented(*trees))
    return {
        status: {
            "model": OpenAIErrorBody | ErrorBody,
            "description": "; ".join(
                form[status]["description"] for form in forms if status in form
            ),
        }
        for status in sorted({*forms[0], *forms[1]}, key=int)
    }


router = APIRouter(prefix="/v1/models", responses=_refusals(ModelNotFound, NotFound))


class ModelList(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    object: Literal["list"] = "list"
    data: list[ModelView]


_Version = Annotated[str | None, Header(alias="anthropic-version")]


@router.get("")
async def list_models(
    http: Request, anthropic_version: _Version = None
) -> ModelList | AnthropicModels:
    found = [_shown(http, name) for name in served(http).names()]
    if anthropic_version is None:
        return ModelList(data=found)
    data = [AnthropicModel.of(view.id, view.created) for view in found]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return AnthropicModels(data=data, first_id=first, last_id=last)


@router.get("/{name:path}")
async def get_model(
    http: Request, name: str, anthropic_version: _Version = None
) -> ModelView | AnthropicModel:
    view = _shown(http, name)
    return view if anthropic_version is None else AnthropicModel.of(view.id, view.created)


def _shown(http: Request, name: str) -> ModelView:
    models, chat = served(http), http.app.state.chat
    view = models.view(name)
    if chat is None or models.is_stateless(name):
        return view
    return view.model_copy(update={"efforts": list(chat.efforts)})
