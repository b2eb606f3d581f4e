"""Tools that count in files what they do, and a process of its own that dies while one runs.

python -m tests.tools.counting FOLDER EFFECT POINT    dies with -9 at POINT, see `POINTS`
"""

import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path

from tools.calls import ToolCall
from tools.context import Context
from tools.define import Tool, define
from tools.effects import Effect
from tools.ledger import FileLedger
from tools.registry import Registry
from tools.running import Executor, Place

POINTS = ("before it is begun", "before its work", "after its work", "before its end is recorded",
          "after its end is recorded")  # fmt: skip
CALL = ToolCall(name="count", arguments={"what": "sheep"})
PLACE = Place(branch="main", point="message-1")


def counted(folder: Path) -> int:
    return sum(1 for _ in folder.glob("done-*"))


def counting_tool(folder: Path, effect: Effect, die_at: str = "") -> Tool:
    """Its effect is one more file; with a key, the same file whenever it is the same key."""

    def count(what: str, context: Context) -> str:
        """Counts."""
        die_if(die_at, "before its work")
        by_key = effect is Effect.IDEMPOTENT
        name = context.key if by_key else uuid.uuid4().hex
        (folder / f"done-{name}").write_text(what)
        die_if(die_at, "after its work")
        return f"one more of {what}"

    return define(count, effect=effect)


def die_if(die_at: str, point: str) -> None:
    if die_at == point:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingLedger(FileLedger):
    def __init__(self, path: Path, die_at: str) -> None:
        super().__init__(path)
        self._die_at = die_at

    async def begin(self, entry):
        die_if(self._die_at, "before it is begun")
        return await super().begin(entry)

    async def end(self, entry):
        die_if(self._die_at, "before its end is recorded")
        await super().end(entry)
        die_if(self._die_at, "after its end is recorded")


async def main(folder: Path, effect: Effect, die_at: str) -> None:
    with DyingLedger(folder / "ledger", die_at) as ledger:
        tool = counting_tool(folder, effect, die_at)
        await Executor(Registry([tool]), ledger=ledger).run([CALL], PLACE)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Effect(sys.argv[2]), sys.argv[3]))
