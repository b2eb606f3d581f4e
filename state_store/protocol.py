"""The protocol that runtimes and engines speak through the store: engines' records, commands and
their answers.

It goes up by one with every change that the other side has to know of. Across all versions a record
has `engine_id`, a command `call` and `reply`, an answer `call`, and each of them `protocol`: so
that whoever speaks another one can be told, and nothing of it is guessed at.
"""

from __future__ import annotations

PROTOCOL = 1


def differs(who: str, spoken: object, *, ours: int, what: str = "nothing was done") -> str:
    """A sentence for people. who: the other side; what: became of it"""
    named = "no version of the protocol" if spoken is None else f"protocol {spoken}"
    return (
        f"{who} speaks {named}, and this process protocol {ours}: {what}. Run one version of "
        "engines and runtimes on a store."
    )
