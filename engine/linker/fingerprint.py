"""The fingerprint of the state that this engine's pools hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sglang

from engine.linker.pools import DevicePools
from engine.linker.segments import ObjectLayout
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint

_WHOLE = 64 << 20  # bytes; a larger weight file is sampled
_SAMPLES, _SAMPLE_BYTES = 256, 4096
_STATE_FORMAT = 1  # of `engine/linker/pools.py`; raise it when the order of segments changes


def fingerprint_of(
    server_args: Any, params: Any, described: DevicePools, rank_count: int
) -> Fingerprint:
    """params: SGLang's `CacheInitParams`. Reads the checkpoint directory."""
    folder = Path(server_args.model_path)
    drafts = [*params.mtp_draft_device_pools, *params.sidecar_draft_device_pools]
    return Fingerprint(
        weights=weights_digest(folder),
        architecture=_digest([folder / "config.json"]),
        tokenizer=_digest(
            folder / name
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        ),
        kv_dtype=described.kv_dtype,
        conv_dtype=described.conv_dtype,
        ssm_dtype=described.ssm_dtype,
        page_size=described.page_size,
        kv_payload_bytes=described.kv.payload_bytes,
        state_payload_bytes=described.state.payload_bytes,
        kv_segments=_segments(described.kv),
        state_segments=_segments(described.state),
        tp_size=rank_count,
        draft=f"mtp:{len(drafts)}" if drafts else "none",
        # `unified_tree_core.py`: a tree that holds Mamba states keys single tokens, even when
        # the engine speculates; without them `describe_pools` accepts no engine that does.
        bigram=False,
        engine=f"sglang {sglang.__version__}, state format {_STATE_FORMAT}",
    )


def weights_digest(folder: Path) -> str:
    """SHA-256 over names, sizes and content of the weight files.

    A file over 64 MiB is read at its head, where safetensors keeps names and shapes, and at 256
    evenly spaced places: training moves all weights, and a terabyte is not read at each start.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            digest.update(file.read(1 << 20))
            for sample in range(_SAMPLES):
                file.seek(size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _segments(layout: ObjectLayout) -> tuple[Segment, ...]:
    return tuple(Segment(segment.dtype, segment.row_bytes) for segment in layout.segments)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.exists() else b""
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()
