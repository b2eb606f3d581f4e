"""What docs/store.md shows works as it is written, and says what the code does."""

import os
import re
import subprocess
import sys
from pathlib import Path

from state_store.encodings import ECONOMIES

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text("utf-8")


def test_the_tenant_example_creates_and_deletes_an_encrypted_tenant(server):
    (example,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        if "create_tenant" in block
    ]
    done = subprocess.run(
        [sys.executable, "-c", example],
        env={**os.environ, "TORPOR_STORE": server.url, "TORPOR_MASTER_KEY": "ab" * 32},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "name='acme'" in done.stdout
    assert "economy='compact'" in done.stdout


def test_every_economy_class_is_in_the_table():
    section = PAGE.partition("## Stored forms")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)`", section, re.MULTILINE)
    assert rows == list(ECONOMIES)
