"""What docs/langgraph.md shows works as it is written."""

import asyncio
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

from state_store.embedded import EmbeddedServer
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

PAGE = Path(__file__).parents[2] / "docs" / "langgraph.md"


def test_the_examples_run(tmp_path):
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    key = secrets.token_hex(32)
    with EmbeddedServer(tmp_path / "store") as server:
        asyncio.run(make_tenant(server.url, key))
        printed = [
            subprocess.run(
                [sys.executable, "-c", example],
                env=os.environ
                | {
                    "REDIS_URL": server.url,
                    "TORPOR_STORE": server.url,
                    "TORPOR_MASTER_KEY": key,
                },
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
            ).stdout
            for example in examples
        ]
    assert printed[0] == "['hello', 'You said hello.', 'again']\n"
    assert len(printed) == 3
    assert printed[1] == "[(('users', 'ann'), {'food': 'bread'})]\n"
    assert printed[2] == "None\n"


async def make_tenant(url, key):
    vault = Vault([MasterKey(bytes.fromhex(key))])
    async with await StateStore.connect(url, vault=vault) as store:
        await store.create_tenant("acme", encrypted=True)
