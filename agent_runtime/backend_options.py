"""The options of commands that name an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse

from pydantic import ValidationError

from agent_runtime.errors import SetupError
from engine.backends.settings import DEFAULT_KEY_VARIABLE, BackendSettings

_TIMEOUT = BackendSettings.model_fields["timeout"].default  # seconds


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="an OpenAI-compatible endpoint for sessions without state, as in http://host:8000/v1",
    )
    parser.add_argument("--backend-model", metavar="NAME", help="as the endpoint calls it")
    parser.add_argument(
        "--backend-key",
        metavar="VARIABLE",
        help=f"environment variable with the endpoint's key; default: {DEFAULT_KEY_VARIABLE}, "
        "if set",
    )
    parser.add_argument(
        "--backend-timeout",
        type=float,
        default=_TIMEOUT,
        metavar="SECONDS",
        help=f"most seconds of silence from the endpoint; default: {_TIMEOUT:g}",
    )


def settings_of(arguments: argparse.Namespace) -> BackendSettings | None:
    """None if no endpoint is named. Raises SetupError for options that make none."""
    if arguments.backend is None and arguments.backend_model is None:
        return None
    if arguments.backend is None or arguments.backend_model is None:
        raise SetupError("--backend and --backend-model go together.")
    try:
        return BackendSettings(
            url=arguments.backend,
            model=arguments.backend_model,
            key_variable=arguments.backend_key,
            timeout=arguments.backend_timeout,
        )
    except ValidationError as error:
        raise SetupError("; ".join(one["msg"] for one in error.errors())) from error


def command_line(settings: BackendSettings) -> list[str]:
    """The options that make `settings`."""
    key = settings.key_variable
    return [
        *("--backend", settings.url, "--backend-model", settings.model),
        *("--backend-timeout", str(settings.timeout)),
        *(() if key is None else ("--backend-key", key)),
    ]
