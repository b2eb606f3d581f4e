"""SGLang's options with which sessions would be answered wrongly.

Asked twice, as `layouts.py`.
"""

from __future__ import annotations

from typing import Any

from engine.errors import UnsupportedOption


def require_supported(server_args: Any) -> None:
    """server_args: SGLang's `ServerArgs`, resolved.

    Raises UnsupportedOption where an event of an answer would have its new ids only: clients take
    what an event has for the whole answer so far, and would lose most of it. And where weights can
    be given up while the engine runs and come back as whatever their memory has then: what is
    computed with it would be stored as this checkpoint's. And adapters (LoRA): SGLang names their
    state by `LoRARef.deterministic_id`, of an adapter's name and path, whatever is in its files.
    """
    if server_args.incremental_streaming_output:
        raise UnsupportedOption(
            "turns read the whole answer so far from each event of the stream; with "
            "--incremental-streaming-output they would lose most of it. Nothing was loaded. Leave "
            "out --incremental-streaming-output."
        )
    if server_args.enable_memory_saver and not server_args.enable_weights_cpu_backup:
        raise UnsupportedOption(
            "with --enable-memory-saver alone, weights that are released come back as whatever is "
            "in their memory then, and sessions would be stored with state of that. Nothing was "
            "loaded. Leave out --enable-memory-saver, or add --enable-weights-cpu-backup."
        )
    # SGLang settles what None means only after this has been asked the first time.
    has_adapters = server_args.enable_lora is None and bool(server_args.lora_paths)
    if server_args.enable_lora or has_adapters:
        raise UnsupportedOption(
            "state computed with an adapter (LoRA) is named by the adapter's name and path, not by "
            "what is in it; a session would go on from the state of other weights once its files "
            "change. Nothing was loaded. Leave out --enable-lora and --lora-paths, or start an "
            "engine for a checkpoint with the adapter merged into it."
        )
