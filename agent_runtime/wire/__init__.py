"""What travels between clients and the runtime, validated at the edge: both sides import it.

What comes from a client is read strictly: no text becomes a number, and no number a truth value.
"""
