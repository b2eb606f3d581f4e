"""How an engine is to be started, as options of commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from agent_runtime.deployment import Layout
from engine.launch import EngineOptions, EngineProcess
from engine.profiles import PROFILES, profile_named

console = Console(stderr=True, highlight=False, markup=False)  # URLs have brackets, too


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", default="demo", help=f"NAME or NAME/VARIANT: {', '.join(PROFILES)}"
    )
    parser.add_argument("--context", type=int, default=None, help="tokens; default: native")
    parser.add_argument("--model", type=Path, default=None, help="checkpoint directory")
    parser.add_argument(
        "--load-deadline",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="stored state that is not read by then is computed instead",
    )
    parser.add_argument("--no-mtp", action="store_true", help="decode without speculation")
    parser.add_argument(
        "extra", nargs="*", metavar="-- SGLANG_ARGUMENT", help="passed to SGLang as they are"
    )


def options_of(
    arguments: argparse.Namespace,
    url: str,
    host: str,
    port: int,
    *,
    model: Path | None,
    archive: str | None,
    master_key: str | None,
    advertise: str | None = None,
    engine_id: str = "engine",
) -> EngineOptions:
    """What was asked for, of an engine at `host`:`port` over the store at `url`."""
    layout = Layout(arguments.data)
    profile = profile_named(arguments.profile)
    if arguments.context is not None:
        profile = profile.at_context(arguments.context)
    return EngineOptions(
        profile=profile,
        redis_url=url,
        archive=archive,
        master_key=master_key,
        log_file=layout.engine_log,
        model=model,
        host=host,
        port=port,
        advertise=advertise,
        mtp=not arguments.no_mtp,
        load_deadline=arguments.load_deadline,
        engine_id=engine_id,
        cache_dir=layout.native_cache,
        extra=tuple(arguments.extra),
    )


def wait_until_serving(engine: EngineProcess) -> None:
    """Telling people how long it takes. Raises EngineStartFailed."""
    with console.status("starting the engine") as status:
        engine.wait_until_serving(
            waiting=lambda seconds: status.update(f"starting the engine, {seconds:.0f} s")
        )
