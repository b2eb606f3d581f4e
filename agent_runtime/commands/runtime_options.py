"""The settings of a runtime as options of commands: see `configuration.py`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_runtime.configuration import (
    CONFIG_VARIABLE,
    Value,
    gathered,
    known,
    settings_fields,
)
from agent_runtime.errors import SetupError
from agent_runtime.policies import POLICIES


@dataclass(frozen=True)
class Flag:
    """setting: that the option sets; metavar: of its value; means: the value if it takes none"""

    option: str
    setting: str
    metavar: str | None = None
    means: bool | None = None

    @property
    def attribute(self) -> str:
        """Of the parsed arguments; there only if the option was given."""
        return self.option.removeprefix("--").replace("-", "_")


STORE = (
    Flag("--redis", "redis_url", "URL"),
    Flag("--archive", "archive_url", "URL"),
    Flag("--master-key", "master_key_source", "SOURCE"),
)
SERVICE = (
    Flag("--host", "host"),
    Flag("--port", "port"),
    Flag("--tls-certificate", "tls_certificate", "FILE"),
    Flag("--tls-key", "tls_key", "FILE"),
    Flag("--require-keys", "require_keys", means=True),
    Flag("--json-log", "json_log", means=True),
)
MODEL = (Flag("--model", "model_dir", "DIR"),)
NAME = (Flag("--model-name", "model_name", "NAME"),)
ENGINES = (
    Flag("--boundary-interval", "boundary_interval", "TOKENS"),
    Flag("--router", "router", "URL"),
)
BACKEND = (
    Flag("--backend", "backend.url", "URL"),
    Flag("--backend-model", "backend.model", "NAME"),
    Flag("--backend-key", "backend.key_variable", "VARIABLE"),
    Flag("--backend-timeout", "backend.timeout", "SECONDS"),
)
SCHEDULING = (
    Flag("--policy", "scheduling.policy", "|".join(POLICIES)),
    Flag("--queue-limit", "scheduling.queue_limit", "TURNS"),
    Flag("--tenant-queue-limit", "scheduling.tenant_queue_limit", "TURNS"),
    Flag("--no-prefetch", "scheduling.prefetch", means=False),
)
FLAGS = (*STORE, *SERVICE, *MODEL, *NAME, *ENGINES, *BACKEND, *SCHEDULING)


def add_to(parser: argparse.ArgumentParser, *, model: bool = True) -> None:
    """model: whether `--model` is one of them, and not the command's own"""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings in TOML; default: {CONFIG_VARIABLE}, if set (docs/configuration.md)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="any other setting, as in lease_ttl=10 or scheduling.quantum=2048",
    )
    for flag in FLAGS:
        if flag in MODEL and not model:
            continue
        if flag.means is None:
            parser.add_argument(
                flag.option, default=argparse.SUPPRESS, metavar=flag.metavar, help=_help(flag)
            )
        else:
            parser.add_argument(
                flag.option,
                action="store_const",
                const=flag.means,
                default=argparse.SUPPRESS,
                help=_help(flag),
            )


def values_of(arguments: argparse.Namespace) -> dict[str, Value]:
    """All settings that are given, by these options and elsewhere. Raises SetupError."""
    return gathered(dict(_given(arguments)), file=arguments.config, environment=os.environ)


def _given(arguments: argparse.Namespace) -> Iterator[tuple[str, Value]]:
    for assignment in arguments.set:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SetupError(f"--set takes SETTING=VALUE, not {name}.")
        yield known(name, "--set"), Value(value, f"--set {name}")
    for flag in FLAGS:
        given: Any = getattr(arguments, flag.attribute, None)
        if given is not None:
            yield flag.setting, Value(given, flag.option)


def _help(flag: Flag) -> str:
    field = settings_fields()[flag.setting]
    text = (field.description or "").split("\n\n")[0].replace("\n", " ").replace("%", "%%")
    if flag.means is not None:
        return f"{flag.setting} = {str(flag.means).lower()}: {text}"
    default = "" if field.is_required() or field.default is None else f" (default: {field.default})"
    return f"{text}{default}"
