"""What happens to a session, told to whoever follows it, from whichever runtime.

turn, suspend, … ──► Feed ──► store ──► Followers ──► GET /v1/sessions/{id}/events
                 in the background    one look for all that are followed here
"""
