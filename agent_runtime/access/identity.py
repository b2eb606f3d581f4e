"""As whom the running request is served."""

from __future__ import annotations

from contextvars import ContextVar

from state_store.api_keys import ApiKey

_current: ContextVar[ApiKey | None] = ContextVar("api_key", default=None)


def serve_as(key: ApiKey) -> None:
    """For the rest of this request."""
    _current.set(key)


def current_tenant(default: str) -> str:
    """The tenant of the request's key; `default` where no keys are asked for."""
    key = _current.get()
    return default if key is None else key.tenant
