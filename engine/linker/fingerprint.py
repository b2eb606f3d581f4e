"""The fingerprint of the state that this engine's pools hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sglang

from engine.digests import architecture_digest, draft_of, files_digest, weights_digest
from engine.linker.pools import DevicePools
from engine.linker.segments import ObjectLayout
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint

_STATE_FORMAT = 1  # of `engine/linker/pools.py`; raise it when the order of segments changes


def fingerprint_of(
    server_args: Any, params: Any, described: DevicePools, rank_count: int
) -> Fingerprint:
    """params: SGLang's `CacheInitParams`. Reads the checkpoint's folder, and the draft's if it has
    its own. Raises UnsupportedModel where one has no weight files."""
    folder = Path(server_args.model_path)
    drafts = [*params.mtp_draft_device_pools, *params.sidecar_draft_device_pools]
    return Fingerprint(
        weights=weights_digest(folder),
        architecture=architecture_digest(folder, server_args),
        tokenizer=files_digest(
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
        draft=draft_of(server_args, len(drafts)),
        # `unified_tree_core.py`: a tree that holds Mamba states keys single tokens, even when
        # the engine speculates; without them `describe_pools` accepts no engine that does.
        bigram=False,
        engine=f"sglang {sglang.__version__}, state format {_STATE_FORMAT}",
    )


def _segments(layout: ObjectLayout) -> tuple[Segment, ...]:
    return tuple(Segment(segment.dtype, segment.row_bytes) for segment in layout.segments)
