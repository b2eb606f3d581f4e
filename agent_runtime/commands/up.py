"""`torpor up`: a whole deployment on this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterator

from agent_runtime.commands import engine_options, runtime_options
from agent_runtime.commands.engine_options import console
from agent_runtime.commands.store_options import add_data_option, store_at
from agent_runtime.configuration import Value, configured
from agent_runtime.errors import SetupError
from agent_runtime.service.tls import require_certificate
from engine.errors import OtherEngineLives
from engine.launch import EngineProcess, free_port, require_free_port
from engine.profiles import profile_named


def add_to(parser: argparse.ArgumentParser) -> None:
    add_data_option(parser)
    runtime_options.add_to(parser, model=False)
    engine_options.add_to(parser)
    parser.add_argument("--engine-port", type=int, default=None, help="default: a free one")
    parser.set_defaults(run=_run, until_stopped=True)


def _run(arguments: argparse.Namespace) -> int:
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
        settings.require_keys_beyond_loopback()
        if settings.tls_certificate is not None:
            require_certificate(settings.tls_certificate, settings.tls_key)
        require_free_port(settings.host, settings.port)  # before the engine takes its time
        options = engine_options.options_of(
            arguments,
            url,
            "127.0.0.1",
            arguments.engine_port or free_port(),
            model=settings.model_dir,
            archive=settings.archive_url,
            master_key=settings.master_key_source,
        )
        engine = EngineProcess(options)
        with _alone(engine):
            from agent_runtime.service.server import (
                serve,  # takes seconds, which the engine needs anyway
            )

            engine_options.wait_until_serving(engine)
            console.print(
                f"torpor is up: {settings.url}, in a browser {settings.url}/console  "
                "(Ctrl-C stops it)"
            )

            def failed() -> str | None:
                if engine.is_alive():
                    return None
                return f"the engine died; sessions are safe in the store. Log: {options.log_file}"

            asyncio.run(serve(settings, failed=failed))
    return 0


@contextlib.contextmanager
def _alone(engine: EngineProcess) -> Iterator[None]:
    """Started, and stopped at the end. Raises SetupError if the store has one already."""
    try:
        engine.start()
    except OtherEngineLives as error:
        raise SetupError(
            f"an engine at {error.url} serves this store already. Nothing was started. Use it with "
            "`torpor serve --redis URL`, or end it first."
        ) from error
    try:
        yield
    finally:
        engine.stop()
