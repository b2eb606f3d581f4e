"""Anthropic's `/v1/messages`, for clients that are written for it.

request ── mapping ── conversation ── mapping ── message, or events
             └─ refuses what cannot be done, and ignores nothing
"""
