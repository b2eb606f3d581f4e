"""Where a backend is and how to ask it."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.errors import BackendKeyMissing

DEFAULT_KEY_VARIABLE = "TORPOR_BACKEND_KEY"


class BackendSettings(BaseModel):
    """One OpenAI-compatible endpoint and one of its models."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: str
    """As OpenAI's clients take it: what `/chat/completions` is put behind, mostly `…/v1`."""
    model: str = Field(min_length=1)
    """As the endpoint calls it."""
    key_variable: str | None = None
    """Environment variable that holds the key; None for TORPOR_BACKEND_KEY, which may be unset."""
    timeout: float = Field(default=600.0, gt=0)
    """Most seconds of silence from the endpoint."""

    @field_validator("url")
    @classmethod
    def _is_plain_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the backend's URL begins with http:// or https:// and names a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "the backend's URL has no user, password or query: it is shown in messages. Give "
                "the key in an environment variable"
            )
        return url.rstrip("/")

    @property
    def is_local(self) -> bool:
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    def key(self) -> str | None:
        """Raises BackendKeyMissing when a variable is named and not set, or holds no key."""
        variable = self.key_variable or DEFAULT_KEY_VARIABLE
        key = os.environ.get(variable, "").strip()
        if self.key_variable and not key:
            raise BackendKeyMissing(
                f"the environment variable {variable} is not set, and the key of backend "
                f"{self.url} is to be in it."
            )
        if not (key.isascii() and key.isprintable()):
            raise BackendKeyMissing(
                f"the environment variable {variable} holds what cannot be the key of backend "
                f"{self.url}: a key is printable ASCII."
            )
        return key or None
