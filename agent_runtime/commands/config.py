"""`torpor config`: the settings that `torpor serve` would run with, and where each comes from."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from agent_runtime.commands import runtime_options
from agent_runtime.configuration import configured, effective
from state_store.address import public_url

_SECRET = re.compile(r"([?&][^=&#]*(?:key|secret|token|password|credential)[^=&#]*=)[^&#]*", re.I)


def add_to(parser: argparse.ArgumentParser) -> None:
    runtime_options.add_to(parser)
    parser.set_defaults(run=_run)


def shown(value: Any) -> str:
    """A setting's value in TOML, without what is secret in it."""
    if isinstance(value, str | Path):
        return json.dumps(_without_secrets(str(value)), ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _run(arguments: argparse.Namespace) -> int:
    values = runtime_options.values_of(arguments)
    lines: list[tuple[str, str]] = []
    for name, found in effective(configured(values), values).items():
        if found.value is None:
            lines.append((f"# {name} is not set", ""))
        else:
            lines.append((f"{name} = {shown(found.value)}", found.origin))
    width = max(len(line) for line, _ in lines)
    for line, origin in lines:
        print(f"{line:{width}}  # {origin}" if origin else line)
    return 0


def _without_secrets(text: str) -> str:
    if "://" not in text:
        return text
    return _SECRET.sub(r"\1***", public_url(text))
