"""SGLang's options that change what clients of an engine are sent.

Asked twice, as `layouts.py`.
"""

from __future__ import annotations

from typing import Any

from engine.errors import UnsupportedOption


def require_whole_answers(server_args: Any) -> None:
    """server_args: SGLang's `ServerArgs`, resolved.

    Raises UnsupportedOption where an event of an answer would have its new ids only: clients take
    what an event has for the whole answer so far, and would lose most of it.
    """
    if server_args.incremental_streaming_output:
        raise UnsupportedOption(
            "turns read the whole answer so far from each event of the stream; with "
            "--incremental-streaming-output they would lose most of it. Nothing was loaded. Leave "
            "out --incremental-streaming-output."
        )
