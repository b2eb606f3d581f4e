"""The `torpor` command."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from agent_runtime import (
    bench_command,
    config_command,
    demo,
    doctor_command,
    engine_command,
    mcp_command,
    plan_command,
    profiles_command,
    runtime_options,
    server,
    simulate_command,
    store_command,
)
from agent_runtime.access import keys_command
from agent_runtime.configuration import Value, configured
from agent_runtime.errors import TorporError
from agent_runtime.processes import Layout
from agent_runtime.store_options import (
    DATA,
    add_archive_option,
    add_data_option,
    add_store_options,
    store_at,
    store_url,
)
from engine.errors import EngineError
from engine.launch import (
    EngineOptions,
    EngineProcess,
    free_port,
    require_free_port,
)
from engine.profiles import PROFILES, profile_named
from state_store.errors import StoreError
from tools.errors import ToolsError

_WATCH = 0.5  # seconds between looks at whether the engine still runs
_console = Console(stderr=True, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it did what it should. Our own errors end it with one line."""
    arguments = _parser().parse_args(argv)
    try:
        with _terminate_like_interrupt():
            code: int = arguments.run(arguments)
        return code
    except (TorporError, EngineError, StoreError, ToolsError) as error:
        print(f"torpor: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torpor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    up = commands.add_parser("up", help="store, engine and runtime together, in the foreground")
    add_data_option(up)
    runtime_options.add_to(up, model=False)
    _engine_options(up)
    up.add_argument("--engine-port", type=int, default=None, help="default: a free one")
    up.set_defaults(run=_up)

    engine = commands.add_parser("engine", help="one engine")
    engine_commands = engine.add_subparsers(dest="engine_command", required=True)
    engine_up = engine_commands.add_parser("up", help="start SGLang and wait until it serves")
    add_store_options(engine_up)
    add_archive_option(engine_up)
    _engine_options(engine_up)
    engine_up.add_argument("--host", default="127.0.0.1")
    engine_up.add_argument("--port", type=int, default=30000, help="of the engine's HTTP server")
    engine_up.add_argument("--engine-id", default="engine", help="unique per store")
    engine_up.add_argument(
        "--drain-timeout",
        type=float,
        default=engine_command.DRAIN_TIMEOUT,
        help="seconds that running turns get after SIGTERM",
    )
    engine_up.set_defaults(run=_engine_up)
    engine_command.add_drain_to(engine_commands)

    serve = commands.add_parser("serve", help="a runtime, for a store and engines that run already")
    runtime_options.add_to(serve)
    serve.set_defaults(run=_serve)

    show = commands.add_parser("demo", help="suspend, kill -9, resume and fork a real session")
    show.add_argument("--data", type=Path, default=Path(".torpor/demo"), help="emptied first")
    show.add_argument("--model", type=Path, default=None)
    show.add_argument("--text", type=Path, default=None, help="the text that the agent reads")
    show.add_argument("--pages", type=int, default=demo.PAGES, help="passages to read")
    show.set_defaults(run=_demo)

    mcp_command.add_to(commands)
    profiles_command.add_to(commands)
    config_command.add_to(commands)
    plan_command.add_to(commands)
    store_command.add_to(commands)
    doctor_command.add_to(commands, DATA)
    bench_command.add_to(commands)
    simulate_command.add_to(commands)
    keys_command.add_to(commands)
    return parser


def _engine_options(parser: argparse.ArgumentParser) -> None:
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


def _up(arguments: argparse.Namespace) -> int:
    values = runtime_options.values_of(arguments)
    if arguments.model is not None:
        values["model_dir"] = Value(arguments.model, "--model")
    profile = profile_named(arguments.profile)
    if profile.model is not None:
        values.setdefault("model_dir", Value(profile.model, f"profile {profile.name}"))
    asked = {name: values[name].value for name in ("redis_url", "archive_url") if name in values}
    with store_at(asked.get("redis_url"), arguments.data, asked.get("archive_url")) as url:
        values.setdefault("redis_url", Value(url, "the embedded store"))
        settings = configured(values)
        server.require_keys_beyond_loopback(settings)
        require_free_port(settings.host, settings.port)  # before the engine takes its time
        options = _options(
            arguments,
            url,
            "127.0.0.1",
            arguments.engine_port or free_port(),
            model=settings.model_dir,
            archive=settings.archive_url,
        )
        engine = EngineProcess(options)
        with engine:
            _wait(engine)
            _console.print(
                f"torpor is up: http://{settings.host}:{settings.port}  (Ctrl-C stops it)"
            )

            def failed() -> str | None:
                if engine.is_alive():
                    return None
                return f"the engine died; sessions are safe in the store. Log: {options.log_file}"

            asyncio.run(server.serve(settings, failed=failed))
    return 0


def _engine_up(arguments: argparse.Namespace) -> int:
    with store_url(arguments) as url:
        options = _options(
            arguments,
            url,
            arguments.host,
            arguments.port,
            model=arguments.model,
            archive=arguments.archive,
            engine_id=arguments.engine_id,
        )
        engine = EngineProcess(options)
        with engine:
            _wait(engine)
            _console.print(f"engine {options.engine_id} serves at {engine.url}, store {url}")
            with _terminate_noted() as terminated:
                while engine.is_alive() and not terminated.is_set():
                    terminated.wait(_WATCH)
            if engine.is_alive():
                _drain(url, options.engine_id, arguments.drain_timeout)
                return 0
            assert engine.process is not None
            code = engine.process.returncode
        print(f"torpor: the engine ended with {code} (log: {options.log_file})", file=sys.stderr)
    return 1


def _drain(url: str, engine_id: str, timeout: float) -> None:
    """Before the engine is stopped, come what may; another SIGTERM or a Ctrl-C cuts it short."""
    _console.print(f"engine {engine_id} finishes its turns, for up to {timeout:g} s")
    try:
        outcome = asyncio.run(engine_command.drained(url, engine_id, timeout=timeout))
        _console.print(engine_command.told(engine_id, outcome))
    except (EngineError, StoreError) as error:
        print(f"torpor: {error}", file=sys.stderr)


def _serve(arguments: argparse.Namespace) -> int:
    asyncio.run(server.serve(configured(runtime_options.values_of(arguments))))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return demo.run(
        data=arguments.data, model=arguments.model, text=arguments.text, pages=arguments.pages
    )


def _options(
    arguments: argparse.Namespace,
    url: str,
    host: str,
    port: int,
    *,
    model: Path | None,
    archive: str | None,
    engine_id: str = "engine",
) -> EngineOptions:
    layout = Layout(arguments.data)
    profile = profile_named(arguments.profile)
    if arguments.context is not None:
        profile = profile.at_context(arguments.context)
    return EngineOptions(
        profile=profile,
        redis_url=url,
        archive=archive,
        log_file=layout.engine_log,
        model=model,
        host=host,
        port=port,
        mtp=not arguments.no_mtp,
        load_deadline=arguments.load_deadline,
        engine_id=engine_id,
        cache_dir=layout.native_cache,
        extra=tuple(arguments.extra),
    )


def _wait(engine: EngineProcess) -> None:
    with _console.status("starting the engine") as status:
        engine.wait_until_serving(
            waiting=lambda seconds: status.update(f"starting the engine, {seconds:.0f} s")
        )


@contextlib.contextmanager
def _terminate_noted() -> Iterator[threading.Event]:
    """In the block, SIGTERM sets the event and does nothing else."""
    noted = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM stops as cleanly as Ctrl-C: whatever was started is ended."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
