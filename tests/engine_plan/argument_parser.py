"""Puts command lines before SGLang: JSON lists in, JSON verdicts out.

A line that is a list of words is only parsed. One that is an object is put through all that SGLang
works out and checks before it loads a model, on a machine of which it is told that it is another.

A process of its own, since SGLang needs stand-ins for what it imports and cannot have on a CPU.
"""

import argparse
import contextlib
import io
import json
import os
import sys

from engine.cpu import imports, quiet

answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may be said there
quiet.install()
imports.install()

from sglang.srt.runtime_context import override_platform  # noqa: E402
from sglang.srt.server_args import ServerArgs, prepare_server_args  # noqa: E402

parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
HOPPER = {
    "is_cuda": True, "is_hip": False, "is_sm90": True, "is_hopper_with_cuda_12_3": True,
    "is_sm100": False, "is_sm100_or_sm110": False, "is_sm110": False, "is_sm120": False,
    "is_blackwell": False, "has_flashinfer": True, "device_sm": 90, "device_capability": (9, 0),
}  # fmt: skip
MACHINES = {
    "H100": HOPPER,
    "H200": HOPPER,
    "B200": HOPPER | {
        "is_sm90": False, "is_hopper_with_cuda_12_3": False, "is_sm100": True,
        "is_sm100_or_sm110": True, "is_blackwell": True, "device_sm": 100,
        "device_capability": (10, 0),
    },
    "MI300X": HOPPER | {
        "is_cuda": False, "is_hip": True, "is_sm90": False, "is_hopper_with_cuda_12_3": False,
        "has_flashinfer": False, "device_sm": 0, "device_capability": (9, 4),
    },
}  # fmt: skip


def verdict(line):
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return {"arguments": _read(line) if isinstance(line, list) else _resolved(**line)}
    except SystemExit:
        return {"refused": errors.getvalue().strip().splitlines()[-1]}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def _read(words):
    return _plain(vars(parser.parse_args(words)))


def _resolved(words, machine, environment):
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with override_platform(**MACHINES[machine]):
            arguments = prepare_server_args(words)
            arguments.resolve_once()
            arguments.check_server_args()
            return _plain(arguments.resolved_dict())
    finally:
        os.environ.clear()  # SGLang leaves marks there
        os.environ.update(before)


def _plain(values):
    return {key: one for key, one in values.items() if isinstance(one, (bool, int, float, str))}


for line in sys.stdin:
    print(json.dumps([verdict(one) for one in json.loads(line)]), file=answers, flush=True)
