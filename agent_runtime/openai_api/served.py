"""Which models this runtime serves, and which of them a request asks for."""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from agent_runtime.errors import ModelNotFound, SetupError
from agent_runtime.settings import RuntimeSettings


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
