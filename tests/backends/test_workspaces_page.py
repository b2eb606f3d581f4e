"""What docs/workspaces.md shows works as it is written."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.backends.scripted import call, says

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "workspaces.md").read_text()


def writes(path: str, content: str):
    piece = call("write_file", "call_a", path=path, content=content)
    return [says(piece, finish="tool_calls"), says({"content": "Done."})]


async def test_the_example_prints_what_is_shown(runtime, endpoint, tmp_path):
    example, shown = re.findall(r"^```(?:python)?\n(.*?)^```", PAGE, re.M | re.S)
    endpoint.scripted += [
        *writes("main.py", "print('hello')\n"),
        *writes("main.py", "print('HELLO')\n"),
        *writes("README", "It greets.\n"),
        *writes("main.py", ""),
        says({"content": "I see."}),
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", example, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"TORPOR_URL": runtime.url, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert printed.decode() == shown
    assert not endpoint.scripted
