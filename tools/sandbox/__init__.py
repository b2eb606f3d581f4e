"""Runs commands of a model in the operating system's own isolation, through bubblewrap.

What a command can reach: its workspace at /workspace, an empty /tmp, the programs of the machine
read-only, and nothing else; no network, no other process, no file of the host. docs/sandbox.md.
"""

from tools.sandbox.check import Support, check
from tools.sandbox.limits import Limits
from tools.sandbox.running import Ran, Sandbox

__all__ = ["Limits", "Ran", "Sandbox", "Support", "check"]
