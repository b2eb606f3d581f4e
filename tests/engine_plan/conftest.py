import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def put_before_sglang():
    """What SGLang makes of command lines, see `argument_parser.py`. One process for all
    who ask: SGLang takes long to import."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("argument_parser.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ
        | {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    ) as process:

        def verdicts(lines):
            process.stdin.write(json.dumps(lines) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield verdicts
        process.kill()  # ending by itself takes SGLang seconds
