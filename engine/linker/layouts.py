"""Which arrangements of ranks can be restored: tensor parallelism, and nothing besides.

Asked twice: by `engine/serve.py` before a terabyte of weights is read, and by every rank's linker,
for a server that was started in another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import UnsupportedLayout

# SGLang's argument -> what it does to stored state
_REFUSED = {
    "pp_size": "pipeline stages hold different layers, and do not agree on what can be restored",
    "dp_size": "replicas behind one address cannot be told which of them is to be made ready",
    "attn_dp_size": (
        "attention groups behind one address cannot be told which of them is to be made ready, and "
        "SGLang 0.5.23 ends when one of Nemotron-H has nothing to do while another computes"
    ),
    "attn_cp_size": "a page's tokens are divided over ranks",
    "dcp_size": "a page's tokens are divided over ranks",
}
_INSTEAD = {
    "dp_size": "Start an engine for each replica; they share the store.",
    "attn_dp_size": "Start an engine for each group, or use --attn-dp-size 1 and more --tp-size.",
}


def require_restorable(server_args: Any) -> None:
    """server_args: SGLang's `ServerArgs`, resolved.

    Raises UnsupportedLayout, naming every argument that has to change.
    """
    found = {name: int(getattr(server_args, name)) for name in _REFUSED}
    wrong = {name: size for name, size in found.items() if size > 1}
    if wrong:
        reasons = [f"{_flag(name)} {size}: {_REFUSED[name]}." for name, size in wrong.items()]
        advice = [_INSTEAD.get(name, f"Leave out {_flag(name)}.") for name in wrong]
        raise UnsupportedLayout(
            f"snapshots support tensor parallelism (--tp-size) only. {' '.join(reasons)} "
            f"Nothing was loaded. {' '.join(advice)}"
        )


def require_alike(fingerprints: Sequence[Mapping[str, Any]]) -> None:
    """fingerprints: every rank's, by rank. Raises UnsupportedLayout, naming what differs."""
    first = fingerprints[0]
    for rank, other in enumerate(fingerprints):
        differing = sorted(name for name in first if first[name] != other[name])
        if differing:
            raise UnsupportedLayout(
                f"rank {rank} stores state in another format than rank 0: "
                f"{', '.join(differing)} differ. Nothing was loaded. Give all nodes the same "
                "checkpoint and SGLang, and a --tp-size that divides the model's heads evenly."
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
