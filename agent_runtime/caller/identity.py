"""As whom the running request is served."""

from __future__ import annotations

from contextvars import ContextVar

from state_store.api_keys import ApiKey

_current: ContextVar[ApiKey | None] = ContextVar("api_key", default=None)


def serve_as(key: ApiKey) -> None:
    """For the rest of this request."""
    _current.set(key)


def may_change() -> bool:
    """Whether the request's key may do more than read."""
    key = _current.get()
    return key is None or key.role != "read"


def is_operator() -> bool:
    """Whether the request's key is of who runs the service, and so of no tenant."""
    key = _current.get()
    return key is not None and key.role == "operator"


def current_tenant(default: str) -> str:
    """The tenant of the request's key; `default` where no keys are asked for."""
    key = _current.get()
    return default if key is None else key.tenant
