"""`/v1/models`: what this runtime serves, and which of it a request asks for.

OpenAI's and Anthropic's clients ask the same path; Anthropic's say so by `anthropic-version`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict

from agent_runtime.anthropic_api.errors import ErrorBody
from agent_runtime.anthropic_api.models import AnthropicModel, AnthropicModels
from agent_runtime.errors import ModelNotFound, NotFound, SetupError
from agent_runtime.openai_api.errors import OpenAIErrorBody, refusals
from agent_runtime.settings import RuntimeSettings

_REFUSALS = {
    status: {**refusal, "model": OpenAIErrorBody | ErrorBody}
    for status, refusal in refusals(ModelNotFound, NotFound).items()
}

router = APIRouter(prefix="/v1/models", responses=_REFUSALS)


class ModelView(BaseModel):
    """created: seconds since 1970, when this runtime began to serve it
    efforts: levels of `reasoning_effort` that its template knows; None if an endpoint decides
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["torpor"] = "torpor"
    efforts: list[str] | None = None


class ModelList(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    object: Literal["list"] = "list"
    data: list[ModelView]


class Served:
    """The models of a runtime by name: the engines' and the backend's."""

    def __init__(self, settings: RuntimeSettings, *, since: float) -> None:
        """since: seconds since 1970, when the runtime began to serve them. Raises SetupError."""
        self._since = int(since)
        self._stateless: dict[str, bool] = {}
        if settings.served_model is not None:
            self._stateless[settings.served_model] = False
        if settings.backend is not None:
            if settings.backend.model in self._stateless:
                raise SetupError(
                    f"the engines' model and the backend's are both called {settings.backend.model}"
                    "; give the first another name with --model-name."
                )
            self._stateless[settings.backend.model] = True

    def names(self) -> list[str]:
        return list(self._stateless)

    def is_stateless(self, name: str) -> bool:
        """Whether sessions of the model keep no state. Raises ModelNotFound."""
        if name not in self._stateless:
            raise ModelNotFound(
                f"the model {name[:200]!r} does not exist here; served are: "
                f"{', '.join(self._stateless)}. Nothing was generated."
            )
        return self._stateless[name]

    def view(self, name: str) -> ModelView:
        """Raises ModelNotFound."""
        self.is_stateless(name)
        return ModelView(id=name, created=self._since)


def served(http: Request) -> Served:
    found: Served = http.app.state.served
    return found


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
