"""How a request gets through a router to an engine with all that belongs to it.

sglang-router parses `/generate` bodies and passes on what it knows: not `cache_salt`, not
`session_id`; and it does not tell who served. It does pass on `extra_key`, so both travel in there
and are taken out again in the engine (`engine/linker/routed.py`), which puts its boot id into each
output.
"""

from __future__ import annotations

import json

BOOT_ID = "torpor_boot_id"  # in the `meta_info` of every output
ROUTING_KEY = "X-SMG-Routing-Key"  # with policy `manual`, equal keys go to one engine
_MARK = "torpor:"


def carried(salt: str, session_id: str | None) -> str:
    """The `extra_key` that brings these to an engine."""
    return _MARK + json.dumps([salt, session_id])


def taken_out(extra_key: object) -> tuple[str, str | None] | None:
    """Salt and session id of a request; None if its `extra_key` carries none."""
    if not isinstance(extra_key, str) or not extra_key.startswith(_MARK):
        return None
    salt, session_id = json.loads(extra_key.removeprefix(_MARK))
    return salt, session_id
