"""Room in a tenant's quota for a turn that is about to be committed."""

from __future__ import annotations

from collections.abc import Sequence

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
    fingerprints: Sequence[Fingerprint],
    file_bytes: int,
) -> Room | None:
    """Hold room for all that the draft and those before it in its chain name; None without a quota.

    fingerprints: the ones that they name; file_bytes: that are not counted yet. Raises
    QuotaExceeded.
    """
    size = sum(map(_bytes, draft.chain, fingerprints)) + file_bytes
    tokens = sum(len(one.new_tokens) for one in draft.chain)
    try:
        return await quotas.reserve(tenant, bytes=size, tokens=tokens)
    except QuotaExceeded:
        # One that was committed before its reply was lost adds nothing when it is sent again.
        if (await sessions.get(draft.session_id)).head == draft.expected_head:
            raise
        return None


def _bytes(draft: SnapshotDraft, fingerprint: Fingerprint) -> int:
    pages = len(draft.page_hashes)
    states = len(draft.checkpoints) + 1 if pages else 0
    size = pages * fingerprint.kv_payload_bytes + states * fingerprint.state_payload_bytes
    return draft.ranks * size
