"""LangGraph's persistence on plain Redis or Valkey, without modules: checkpoints and memories.

    async with await TorporSaver.connect("redis://localhost:6379", ttl=7 * 86400) as saver:
        graph = builder.compile(checkpointer=saver)

A checkpoint carries what the graph's state carries: with `agent_runtime.graph`, the session and the
snapshot that the model's state had then, so that time travel takes the model's state along.
"""

from agent_runtime.saver.checkpoints import TorporSaver
from agent_runtime.saver.memories import TorporStore

__all__ = ["TorporSaver", "TorporStore"]
