"""How deep the lists and objects of a JSON text nest, without parsing it.

Linear in its length, and in blocks, so that it needs no memory to speak of:

    block ── escapes are taken out ── all but quotes and brackets is taken out ── counted
"""

from __future__ import annotations

import numpy as np

_BLOCK = 1 << 20  # bytes
_REST = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def is_within(text: bytes, depth: int) -> bool:
    """Whether no more than `depth` lists and objects are within each other. A text that is no JSON
    may be said to be, as far as a parser does not read it."""
    level, in_string, carried = 0, 0, b""
    for start in range(0, len(text), _BLOCK):
        block = carried + text[start : start + _BLOCK]
        carried = b"\\" if (len(block) - len(block.rstrip(b"\\"))) % 2 else b""  # cuts an escape
        block = block.removesuffix(carried).replace(rb"\\", b"").replace(rb"\"", b"")
        marks = np.frombuffer(block.translate(None, _REST), dtype=np.uint8)
        if not len(marks):
            continue
        quotes = in_string + np.cumsum(marks == ord('"'), dtype=np.int32)
        levels = level + np.cumsum(_STEPS[marks] * (1 - quotes % 2), dtype=np.int32)
        if levels.max() > depth:
            return False
        level, in_string = int(levels[-1]), int(quotes[-1]) % 2
    return True
