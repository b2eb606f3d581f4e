"""Start SGLang's server: ``python -m engine.serve <sglang server arguments>``.

The same as ``python -m sglang.launch_server``, except that on a CPU (SGLANG_USE_CPU_ENGINE=1) what
SGLang imports but cannot have there is made importable first. Its other processes are forked from
this one, and have it too.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from engine import prompts
from engine.cpu import imports, quiet, threads

if imports.wanted():
    # Read when torch is imported. Compiling stalls the first request by up to half a minute.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    quiet.install()
    imports.install()


def main(arguments: list[str]) -> None:
    """Serve until interrupted.

    Args:
        arguments: SGLang's command line, without the program name.

    Raises:
        SystemExit: bad arguments, ranks arranged as sessions do not support, options with which
            they would be answered wrongly, or a patch that did not take effect.
    """
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    load_plugins()
    _require_patches()
    from sglang.srt.entrypoints.http_server import app

    prompts.add_to(app)
    server_args = prepare_server_args(arguments)
    if server_args.enable_unified_cache_external_linker:
        _require_servable(server_args)
    if imports.wanted():
        threads.name_cores(server_args.tp_size)
    try:
        run_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _require_patches() -> None:
    """A plugin that was never run cannot complain (one that failed has ended the process)."""
    from engine.cpu.patches import verify_patches
    from engine.errors import PatchError
    from engine.linker import loads, routed, weights
    from engine.patch import require

    try:
        require((*routed.PATCHES, *loads.PATCHES, *weights.PATCHES))
        if imports.wanted():
            verify_patches()
    except PatchError as error:
        raise SystemExit(
            "torpor: SGLang did not run the plugin 'torpor', so it cannot serve sessions. "
            "Is this package installed, and does SGLANG_PLUGINS, if set, name it?"
        ) from error


def _require_servable(server_args: Any) -> None:
    from engine.errors import EngineError
    from engine.linker.layouts import require_restorable
    from engine.linker.options import require_supported

    try:
        require_restorable(server_args)
        require_supported(server_args)
    except EngineError as error:
        raise SystemExit(f"torpor: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
