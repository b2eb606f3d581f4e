"""What docs/langgraph.md shows works as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

from state_store.embedded import EmbeddedServer

PAGE = Path(__file__).parents[2] / "docs" / "langgraph.md"


def test_the_examples_run(tmp_path):
    checkpoints, memory = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    with EmbeddedServer(tmp_path / "store") as server:
        printed = [
            subprocess.run(
                [sys.executable, "-c", example],
                env=os.environ | {"REDIS_URL": server.url},
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
            ).stdout
            for example in (checkpoints, memory)
        ]
    assert printed[0] == "['hello', 'You said hello.', 'again']\n"
    assert printed[1] == "[(('users', 'ann'), {'food': 'bread'})]\n"
