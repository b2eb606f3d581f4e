"""Puts command lines before SGLang's own argument parser: JSON lists in, JSON verdicts out.

A process of its own, since SGLang needs stand-ins for what it imports and cannot have on a CPU.
"""

import argparse
import contextlib
import io
import json
import sys

from engine.cpu import imports, quiet

answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may be said there
quiet.install()
imports.install()

from sglang.srt.server_args import ServerArgs  # noqa: E402

parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)


def verdict(words):
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = parser.parse_args(words)
    except SystemExit:
        return {"refused": errors.getvalue().strip().splitlines()[-1]}
    return {
        "arguments": {name: value for name, value in vars(parsed).items() if _is_plain(value)},
    }


def _is_plain(value):
    return isinstance(value, (bool, int, float, str))


for line in sys.stdin:
    print(json.dumps([verdict(words) for words in json.loads(line)]), file=answers, flush=True)
