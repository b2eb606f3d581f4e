"""Why engines that live cannot take a session, for people."""

from __future__ import annotations

from collections.abc import Sequence

from engine.records import EngineRecord
from state_store.compatibility import compatibility
from state_store.errors import StoreError
from state_store.store import StateStore


async def of_another_format(
    store: StateStore, fingerprint_id: str, records: Sequence[EngineRecord]
) -> list[str]:
    """One phrase for each of the engines, whose fingerprints are not the one that is wanted: which
    fields differ, if the store tells what the wanted one has."""
    try:
        wanted = await store.fingerprint(fingerprint_id)
    except StoreError:  # that no engine fits is what counts
        return [f"{one.engine_id} (fingerprint {one.fingerprint.id})" for one in records]
    told = []
    for one in records:
        reasons = compatibility(wanted, one.fingerprint).reasons
        told.append(f"{one.engine_id} ({'; '.join(reason.difference for reason in reasons)})")
    return told
