"""Room in a tenant's quota for a turn that is about to be committed."""

from __future__ import annotations

from state_store.errors import QuotaExceeded
from state_store.fingerprint import Fingerprint
from state_store.quotas import Quotas, Room
from state_store.records import SnapshotDraft
from state_store.sessions import Sessions


async def reserve(
    quotas: Quotas,
    sessions: Sessions,
    tenant: str,
    draft: SnapshotDraft,
    fingerprint: Fingerprint,
    file_bytes: int,
) -> Room | None:
    """Hold room for all that the draft names; None without a quota. Raises QuotaExceeded.

    file_bytes: see `Files.of_draft`
    """
    pages = len(draft.page_hashes)
    states = len(draft.checkpoints) + 1 if pages else 0
    size = pages * fingerprint.kv_payload_bytes + states * fingerprint.state_payload_bytes
    try:
        return await quotas.reserve(
            tenant, bytes=draft.ranks * size + file_bytes, tokens=len(draft.new_tokens)
        )
    except QuotaExceeded:
        # One that was committed before its reply was lost adds nothing when it is sent again.
        if (await sessions.get(draft.session_id)).head == draft.expected_head:
            raise
        return None
