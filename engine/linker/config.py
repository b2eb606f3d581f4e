"""What the launcher tells the linker.

SGLang shows its arguments to everybody who asks (its log, `/server_info`, the process table), and
so `linker_extra_config` has only what is no secret. URLs, which may have passwords, and where the
master key is stand in the environment of the engine's processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

RECOMPUTE = "recompute-"
"""How the id of a request begins that is to be computed, whatever could be restored."""
VARIABLE = "TORPOR_LINKER"
"""Holds, as JSON, the fields that may have secrets in them."""
_SECRET = {"url", "archive", "master_key"}
HEARTBEAT_TTL = 10.0  # seconds; a record that is not renewed for so long is a dead engine


def watched(boot_id: str) -> str:
    """The address of commands that are answered while another one is being done."""
    return f"{boot_id}.watched"


def prefetching(boot_id: str) -> str:
    """The address of commands that read, from an archive that may be slow, so that none that does
    not waits for them."""
    return f"{boot_id}.prefetching"


def settling(boot_id: str) -> str:
    """The address of commands that wait for offloads, so that none that does not waits for them."""
    return f"{boot_id}.settling"


class LinkerConfig(BaseModel):
    """Settings of the linker in every rank of one engine process group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """Redis URL of the state store: unix://, redis:// or rediss://."""
    prefix: str = "torpor"
    """Key prefix, as given to `StateStore.connect`."""
    archive: str | None = None
    """URL of the archive that objects are read from when they are not in Redis."""
    master_key: str | None = None
    """Where the master keys of encrypted tenants are, see `Vault.load`; None: their sessions are
    not stored here."""
    engine_id: str
    """Name under which the engine is registered. No other one on the store may have it."""
    boot_id: str
    """Changes at every start: a runtime that sees a new one knows the device is empty. Commands are
    sent to it."""
    advertised: str | None = None
    """URL under which runtimes reach the engine's HTTP server; None for where SGLang listens."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds without progress after which a socket operation gives up; seconds that a read of one
    object from an archive's bucket may take."""
    uncommitted_ttl: int = Field(default=3600, gt=0)
    """Seconds that an object lives unless a commit pins it. Must outlast the longest turn."""
    load_deadline: float = Field(default=30.0, gt=0)
    """Seconds that the objects of a batch's loads may take to be staged. Decoding waits for them;
    a request whose objects are late is aborted, and computed instead."""
    offload_queue_bytes: int = Field(default=2 << 30, gt=0)
    """Device memory per rank that is kept from eviction until it is stored. What would exceed it
    is not offloaded, and is offered again later."""
    offload_queue_count: int = Field(default=1024, gt=0)
    """Pieces of sessions that may wait to be stored."""
    kv_staging_bytes: int = Field(default=256 << 20, gt=0)
    """Host memory per rank for staged KV pages."""
    state_staging_bytes: int = Field(default=64 << 20, gt=0)
    """Host memory per rank for staged Mamba states."""

    @classmethod
    def told(cls, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Self:
        """From `linker_extra_config` and the environment. Raises ValidationError."""
        return cls.model_validate({**arguments, **json.loads(environment.get(VARIABLE, "{}"))})

    def arguments(self) -> dict[str, Any]:
        """For `linker_extra_config`."""
        return self.model_dump(mode="json", exclude=_SECRET)

    def environment(self) -> dict[str, str]:
        """For the engine's processes."""
        return {VARIABLE: self.model_dump_json(include=_SECRET)}
