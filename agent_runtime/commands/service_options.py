"""Which service a command is a client of."""

from __future__ import annotations

import argparse
import os

from agent_runtime.errors import SetupError

URL = "http://127.0.0.1:8700"


def add_to(parser: argparse.ArgumentParser, *, key_variable: str | None = None) -> None:
    """key_variable: that is looked at if none is named"""
    parser.add_argument("--url", default=URL, help="of the service")
    default = "" if key_variable is None else f"; default: {key_variable}"
    parser.add_argument(
        "--key-variable",
        metavar="NAME",
        default=None,
        help=f"environment variable that holds the API key, if the service asks for one{default}",
    )


def api_key(variable: str | None, *, otherwise: str | None = None) -> str | None:
    """otherwise: variable that may hold a key if none was named. Raises SetupError."""
    if variable is None:
        return None if otherwise is None else os.environ.get(otherwise) or None
    if not os.environ.get(variable):
        raise SetupError(f"--key-variable names {variable}, which is not set.")
    return os.environ[variable]
