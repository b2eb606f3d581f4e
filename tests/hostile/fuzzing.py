"""Runs schemathesis over a live service's whole OpenAPI document."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = [
    "refusals_are_named",  # in schemathesis_hooks.py; stricter than not_a_server_error
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


def fuzz(url, folder, *, phases, examples, key=None, has_engine=False, workers=1):
    """What schemathesis reports, as it writes it. Failures are printed with how to repeat them.

    Deterministic, with neither a random seed nor a database of examples.
    examples: of each operation in the fuzzing phase; other phases have their own numbers
    """
    report = folder / "schemathesis.json"
    command = [
        sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{url}/openapi.json",
        "--checks", ",".join([*CHECKS, "ignored_auth"] if key else CHECKS),
        "--phases", phases, "--max-examples", str(examples), "--workers", str(workers),
        "--generation-deterministic", "--continue-on-failure", "--warnings", "off",
        "--report-json-path", str(report), "--request-timeout", "60",
    ]  # fmt: skip
    if key:
        command += ["--header", f"Authorization: Bearer {key}"]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.hostile.schemathesis_hooks",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONHASHSEED": "0",
        "TORPOR_FUZZ_KEY": key or "",
        "TORPOR_FUZZ_HAS_ENGINE": "yes" if has_engine else "",
    }
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    print(ended.stdout, ended.stderr)
    return json.loads(report.read_text())
