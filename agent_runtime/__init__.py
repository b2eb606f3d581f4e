"""The runtime: sessions of agents over state that can sleep, fork and wake.

    cli ── commands          sdk, graph, branching, langchain, openai_agents
      │                        │ over HTTP
    service ── routes, openai_api, anthropic_api, mcp_server, access
      │
    sessions ── turns ── feed, messages, scheduling
      │
    http, caller ── wire     what travels, and what every route answers with

Apart from these: `saver`, checkpoints of LangGraph; `bench`, `demo` and `doctor`, behind commands.
"""
