"""Clients of the runtime: `Torpor`, and `sync.TorporSync` for code that does not await.

They know the service by what travels (`wire/`) alone: importing them imports no part of it.
"""

from agent_runtime.sdk.errors import ApiError, ApiUnreachable
from agent_runtime.sdk.torpor import Torpor

__all__ = ["ApiError", "ApiUnreachable", "Torpor"]
