"""The runtime behind the OpenAI Agents SDK: a model for its `Runner`, and its sessions."""

from agent_runtime.openai_agents.model import TorporModel
from agent_runtime.openai_agents.session import TorporSession

__all__ = ["TorporModel", "TorporSession"]
