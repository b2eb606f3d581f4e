"""Sessions and forks as tools of an MCP server, for agents that run elsewhere.

agent ── stdio ── `torpor mcp` ── HTTP ──┐
agent ── HTTP ── /mcp ── inside.py ──────┴── the service, with its keys, tenants and limits
"""
