"""Whether a draft can be true: what it says must agree with its parent and its state format."""

from __future__ import annotations

import re

import numpy as np

from state_store.errors import InvalidDraft
from state_store.fingerprint import Fingerprint
from state_store.records import Snapshot, SnapshotDraft

_HASH = re.compile(r"[0-9a-f]{64}")


def token_log(draft: SnapshotDraft) -> bytes:
    """The new tokens as they are stored: uint32[n], little endian.

    Raises InvalidDraft for an id that is negative or does not fit 32 bits: a cast would wrap
    around silently and store another history.
    """
    if not len(draft.new_tokens):
        return b""
    tokens = np.asarray(draft.new_tokens)
    if tokens.dtype.kind not in "iu" or tokens.ndim != 1:
        raise InvalidDraft(f"token ids are whole numbers, not {tokens.dtype}; nothing committed.")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= 1 << 32:
        raise InvalidDraft(
            f"token id {low if low < 0 else high} does not fit 32 bits without a sign; nothing "
            "was committed."
        )
    return tokens.astype("<u4").tobytes()


def check_draft(draft: SnapshotDraft, fingerprint: Fingerprint, parent: Snapshot | None) -> None:
    """fingerprint: the one that the draft names; parent: None for a session's first turn.

    Raises InvalidDraft, saying everything that is wrong.
    """
    wrong = [
        *_about_tokens(draft, parent),
        *_about_the_boundary(draft, fingerprint, parent),
        *_about_pages(draft, fingerprint, parent),
    ]
    if draft.ranks != fingerprint.tp_size:
        wrong.append(f"{draft.ranks} ranks, and its state format has {fingerprint.tp_size}")
    if wrong:
        raise InvalidDraft(
            f"the draft for {draft.session_id} cannot be true: {'; '.join(wrong)}. Nothing was "
            "committed."
        )


def _about_tokens(draft: SnapshotDraft, parent: Snapshot | None) -> list[str]:
    before = 0 if parent is None else parent.total_tokens
    if before + len(draft.new_tokens) == draft.total_tokens:
        return []
    return [
        f"{draft.total_tokens} tokens in all, and {len(draft.new_tokens)} new ones after "
        f"{before} make {before + len(draft.new_tokens)}"
    ]


def _about_the_boundary(
    draft: SnapshotDraft, fingerprint: Fingerprint, parent: Snapshot | None
) -> list[str]:
    wrong = []
    if draft.boundary < 0 or draft.boundary % fingerprint.page_size:
        wrong.append(
            f"boundary {draft.boundary} is not the end of a page of {fingerprint.page_size} tokens"
        )
    # A page over token pairs is named only by the token after it.
    if fingerprint.bigram and 0 < draft.boundary >= draft.total_tokens:
        wrong.append(f"no token follows boundary {draft.boundary}, and pages are over token pairs")
    base = _base(draft, parent)
    if draft.boundary < base:
        wrong.append(f"boundary {draft.boundary} is before the parent's {base}")
    if (
        parent is not None
        and base == draft.boundary != 0
        and draft.boundary_hash != parent.boundary_hash
    ):
        wrong.append(f"boundary {base} is the parent's, and the hash of its page is another")
    return wrong


def _about_pages(
    draft: SnapshotDraft, fingerprint: Fingerprint, parent: Snapshot | None
) -> list[str]:
    base = _base(draft, parent)
    pages, rest = divmod(max(draft.boundary - base, 0), fingerprint.page_size)
    wrong = []
    if not rest and len(draft.page_hashes) != pages:
        wrong.append(
            f"{len(draft.page_hashes)} page hashes, and {pages} pages of {fingerprint.page_size} "
            f"tokens lie between {base} and {draft.boundary}"
        )
    bad = [h for h in (*draft.page_hashes, draft.boundary_hash) if h and not _HASH.fullmatch(h)]
    if bad:
        wrong.append(f"{bad[0][:80]!r} is not the hash of a page, 64 hex digits")
    return wrong


def _base(draft: SnapshotDraft, parent: Snapshot | None) -> int:
    """Where the draft's own pages begin: state of another format is of no use to it."""
    if parent is None or parent.fingerprint_id != draft.fingerprint_id:
        return 0
    return parent.boundary
