"""An agent in a process of its own, which dies with -9 at one point of an effectful call.

python -m tests.runtime.dying_agent RUNTIME STORE PREFIX FOLDER EFFECT POINT QUESTION
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from agent_runtime.demo.script import SYSTEM
from agent_runtime.graph import STATE_TYPES, Agent, ask, build_agent
from agent_runtime.saver import TorporSaver
from agent_runtime.sdk import Torpor
from tools.calculator import calculate
from tools.context import Context
from tools.define import Tool, define
from tools.effects import Effect
from tools.registry import Registry

POINTS = ("before its work", "after its work", "after its end is recorded")


def counted(folder: Path) -> int:
    return sum(1 for _ in folder.glob("done-*"))


def counting_calculator(folder: Path, effect: Effect, die_at: str = "") -> Tool:
    """The calculator that the model knows, which leaves a file each time: the same for one key."""

    def calculator(expression: str, context: Context) -> str:
        """Computes a sum, a difference or a product.

        Args:
            expression: For example 12 + 34
        """
        die_if(die_at, "before its work")
        name = context.key if effect is Effect.IDEMPOTENT else os.urandom(8).hex()
        (folder / f"done-{name}").touch()
        die_if(die_at, "after its work")
        return calculate(expression)

    return define(calculator, effect=effect)


def die_if(die_at: str, point: str) -> None:
    if die_at == point:
        os.kill(os.getpid(), signal.SIGKILL)


def agent_of(torpor: Torpor, saver: TorporSaver | None, tool: Tool, die_at: str = "") -> Agent:
    async def observe(step) -> None:
        if step.kind == "tool":  # recorded in the ledger, and in no checkpoint yet
            die_if(die_at, "after its end is recorded")

    return build_agent(
        torpor, Registry([tool]), checkpointer=saver, observer=observe, max_tokens=96
    )


async def main(url: str, store: str, prefix: str, folder: str, effect: str, die_at: str, text: str):
    tool = counting_calculator(Path(folder), Effect(effect), die_at)
    async with (
        Torpor(url) as torpor,
        await TorporSaver.connect(store, prefix=prefix, types=STATE_TYPES) as saver,
    ):
        session = await torpor.create(system=SYSTEM, tools=[tool.spec])
        await ask(agent_of(torpor, saver, tool, die_at), session, text, thread="a")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
