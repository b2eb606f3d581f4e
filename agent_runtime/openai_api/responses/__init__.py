"""OpenAI's `/v1/responses` and `/v1/conversations`: a response is a snapshot.

request ── items ── place ── turn ── record ── response, or its events
             │        │                └─ kept with the session that the snapshot is in
             │        └─ behind `previous_response_id`: in its session, or in a fork of it
             └─ what is said, and what ties results to calls
"""
