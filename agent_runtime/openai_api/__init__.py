"""OpenAI's API over the runtime's conversations: for clients that know nothing of snapshots.

models ── which model      chat_routes ── /v1/chat/completions
errors ── how it is told   responses/  ── /v1/responses, /v1/conversations
messages, logprobs ── what is said, in both directions
"""
