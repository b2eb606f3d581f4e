"""Whether a sandbox can be made on this machine, found out by making one; what to change if not."""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools.errors import SandboxUnavailable
from tools.sandbox.limits import Limits
from tools.sandbox.running import Ran, Sandbox
from tools.workspaces.owner import owner

NEEDS = (
    "Linux 5.14 or later: process limits that count in a user namespace of their own",
    "namespaces for users, processes, mounts, network, IPC, host name and cgroups, which this "
    "user may create",
    "seccomp filters, and libseccomp to make one",
    "bubblewrap 0.8.0 or later, and util-linux (prlimit, choom; as root also unshare, setpriv)",
)
_LIMITS = Limits(seconds=20.0, processes=6)
_PROBE = """grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
echo "networks: $(grep -c : /proc/net/dev)"
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 10 & done
echo "no process limit"
"""
_EXPECTED = ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "networks: 1")


@dataclass(frozen=True)
class Support:
    """available: a sandbox was made, and held what it ran
    found:     what was seen, or why there is none and what to change
    held_by:   what holds all processes of a command together, see `Ran.held_by`
    needs:     what a machine must have
    """

    available: bool
    found: str
    held_by: str = ""
    needs: tuple[str, ...] = NEEDS


def check() -> Support:
    """Make a sandbox and see that it holds: no capabilities, no network, filter, process limit."""
    with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
        try:
            ran = thread.submit(lambda: asyncio.run(_probe())).result()
        except SandboxUnavailable as error:
            return Support(False, str(error))
    missing = [line for line in _EXPECTED if line not in ran.output]
    if "no process limit" in ran.output:
        missing.append("a process limit")
    if missing:
        return Support(False, f"a sandbox was made, but without {', '.join(missing)}: {ran.text()}")
    found = "bubblewrap: own namespaces, no network, seccomp filter, limits hold"
    return Support(True, found, ran.held_by)


async def _probe() -> Ran:
    with tempfile.TemporaryDirectory(prefix="sandbox-check-") as folder:
        os.chown(folder, owner(), -1)
        return await Sandbox().run(["/bin/sh", "-c", _PROBE], Path(folder), limits=_LIMITS)
