"""What is said of tenants to who runs the service."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agent_runtime.wire.lists import FewFields

_WORDS = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
_Limit = Annotated[int, Field(ge=0, lt=2**53)]  # a double, in the scripts that compare it


class TenantView(BaseModel):
    """See `state_store.records.Tenant`."""

    model_config = _WORDS

    name: str
    encrypted: bool
    economy: str
    """Class that its sessions are stored in, unless they say otherwise."""


class TenantQuota(FewFields):
    """How much a tenant may have; None, or nothing said: as much as there is room for."""

    model_config = _WORDS

    bytes: _Limit | None = None
    """Of state on all ranks, files, records of effects, what is kept with sessions, and notes."""
    tokens: _Limit | None = None
    """Of all histories."""
    sessions: _Limit | None = None


class TenantUsage(BaseModel):
    """See `state_store.usage.Usage`, which has the meaning of each number. What a newer service
    counts besides is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    tenant: str
    sessions: int
    snapshots: int
    tokens: int
    own_bytes: int
    shared_bytes: int
    archived_bytes: int
    file_bytes: int
    archived_file_bytes: int
    effect_bytes: int
    attached_bytes: int
    note_bytes: int
