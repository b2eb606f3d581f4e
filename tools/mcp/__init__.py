"""Tools, resources and prompts of MCP servers, over stdio and streamable HTTP. docs/mcp.md."""

from tools.mcp.client import McpClient, Prompt, PromptMessage, Resource
from tools.mcp.connection import Health, Patience
from tools.mcp.servers import HttpServer, StdioServer

__all__ = [
    "Health",
    "HttpServer",
    "McpClient",
    "Patience",
    "Prompt",
    "PromptMessage",
    "Resource",
    "StdioServer",
]
