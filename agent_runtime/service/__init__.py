"""The edge of the HTTP service: what every request passes through, whatever it asks for.

request id ── metrics ── limits of the body ── routes ── problem documents
"""
