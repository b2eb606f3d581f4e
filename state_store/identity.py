"""The identity of pages: a SHA-256 chain over token ids, seeded by the tenant's salt.

A page's hash names all tokens up to its end, so equal hashes mean equal history. The bytes
hashed are exactly SGLang 0.5.23's (`srt/mem_cache/utils.py:get_storage_hash_str` and
`srt/mem_cache/cpp_utils/hash_binding.cpp`), so that a runtime knows from token ids alone how the
engine names what it stores:

    seed    = SHA-256("sglang-cache-namespace-v1" ‖ 00 ‖ 01 ‖ len(salt) as u64 LE ‖ salt)
    hash[i] = SHA-256(hash[i-1] or seed ‖ page i's units as u32 LE)

A unit is one token id or, for an engine that speculates (its radix tree keys bigrams), the pair
of a token and its successor: page i then also depends on the first token after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NAMESPACE = b"sglang-cache-namespace-v1"


def namespace_seed(salt: str) -> str:
    """Hex digest that starts the hash chain of every page of one tenant.

    Raises ValueError for an empty salt, which SGLang takes for none at all.
    """
    if not salt:
        raise ValueError("the salt of a tenant's pages is empty.")
    encoded = salt.encode()
    presence = b"\x00" + b"\x01" + len(encoded).to_bytes(8, "little")  # no extra key; a salt
    return hashlib.sha256(_NAMESPACE + presence + encoded).hexdigest()


def page_hashes(
    tokens: Sequence[int] | NDArray[np.uint32],
    page_size: int,
    *,
    salt: str,
    bigram: bool,
    prior: str | None = None,
) -> list[str]:
    """Hex hashes of the whole pages in `tokens`, which start at a page boundary.

    tokens: uint32[n]; a page is complete at `page_size` tokens, plus one more if `bigram`
    prior:  hash of the page before, None at the beginning of a history
    Raises OverflowError for an id that is negative or does not fit 32 bits.
    """
    units = np.asarray(tokens) if len(tokens) else np.zeros(0, dtype=np.uint32)
    if units.dtype != np.uint32:
        # A cast of an integer array wraps around silently: it would name another history.
        if units.min() < 0 or units.max() >= 1 << 32:
            raise OverflowError("a token id is negative or does not fit 32 bits.")
        units = units.astype(np.uint32)
    if bigram:
        units = np.stack([units[:-1], units[1:]], axis=1)
    digest = bytes.fromhex(namespace_seed(salt) if prior is None else prior)
    hashes = []
    for start in range(0, len(units) - page_size + 1, page_size):
        page = np.ascontiguousarray(units[start : start + page_size], dtype="<u4")
        digest = hashlib.sha256(digest + page.tobytes()).digest()
        hashes.append(digest.hex())
    return hashes
