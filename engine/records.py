"""What an engine publishes about itself, and reading it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from state_store.fingerprint import Fingerprint
from state_store.protocol import PROTOCOL, differs

logger = logging.getLogger(__name__)


class EngineRecord(BaseModel):
    """What an engine publishes about itself (written by `engine/linker/control.py`)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    engine_id: str
    boot_id: str
    url: str
    fingerprint: Fingerprint
    ranks: int
    page_size: int
    kv_object_bytes: int
    state_object_bytes: int
    context_length: int
    prefill_chunk: int
    """Most prompt tokens computed at once. A state is left at each chunk's end."""
    running_slots: int
    """Requests that it computes at once."""
    state_slots: int
    kv_slots: int
    """Recurrent states and tokens that its device holds."""
    staging_bytes: int
    """Host memory of each rank for pages that are fetched before they are asked for."""
    greedy_only: bool
    """SGLang verifies drafts greedily on a CPU: of an answer only the first token is sampled."""
    seeded: bool = False
    """It draws by the seeds of requests: SGLang does with --enable-deterministic-inference only."""
    master_keys: tuple[str, ...] = ()
    """Ids of the master keys that it has: it stores sessions of tenants who need no other."""
    draining: bool = False
    """It takes no new turns: somebody is about to end it."""


def readable(
    published: Sequence[Mapping[str, Any]], known: Collection[str]
) -> tuple[list[EngineRecord], dict[str, str]]:
    """The records that this version can read, and why not the others, by engine: they may be of a
    newer one, and are no reason to serve nobody. Those that are not in `known` are logged."""
    records, unreadable = [], {}
    for raw in published:
        name = str(raw.get("engine_id", "an engine without a name"))
        spoken = raw.get("protocol")
        if spoken not in (None, PROTOCOL):
            why = differs("it", spoken, ours=PROTOCOL, what="it gets no turns")
            unreadable[name] = why
        else:
            try:
                records.append(EngineRecord.model_validate(raw))
                continue
            except ValidationError as error:
                why = f"its record is unreadable: {error}"
                unreadable[name] = "of another version"
        if name not in known:
            logger.error("engine %s is passed over: %s", name, why)
    return records, unreadable
