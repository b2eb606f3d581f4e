"""`torpor demo`: see `demo/`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from agent_runtime import demo


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path(".torpor/demo"), help="emptied first")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--text", type=Path, default=None, help="the text that the agent reads")
    parser.add_argument("--pages", type=int, default=demo.PAGES, help="passages to read")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return demo.run(
        data=arguments.data, model=arguments.model, text=arguments.text, pages=arguments.pages
    )
