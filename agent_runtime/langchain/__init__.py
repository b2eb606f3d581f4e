"""The runtime as a LangChain chat model."""

from agent_runtime.langchain.model import ChatTorpor

__all__ = ["ChatTorpor"]
