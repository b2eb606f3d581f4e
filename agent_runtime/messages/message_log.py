"""Messages as the log of a snapshot, where sessions with state have token ids.

A turn's messages are lines of JSON, as UTF-8, filled up with blanks to whole words of 32 bits:

    {"role":"user","content":"Hi"}⏎{"role":"assistant","content":"Hello."}⏎···
    |word|word|word|…                                                  |word|

A snapshot's id hashes its log, so other messages make another snapshot, and all that the store
does with token ids it does with messages: checks, encryption, export, comparing histories.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from typing import Any

from state_store.errors import CorruptObject

WireMessage = dict[str, Any]
"""A message as the chat completions protocol has it."""

_WORD = 4  # bytes


def words_of(messages: Iterable[WireMessage]) -> array[int]:
    """uint32[n], to be appended to a log."""
    lines = [
        json.dumps(message, ensure_ascii=False, separators=(",", ":")) + "\n"
        for message in messages
    ]
    log = "".join(lines).encode()
    words = array("I")
    words.frombytes(log + b" " * (-len(log) % _WORD))
    return words


def messages_of(words: array[int]) -> list[WireMessage]:
    """The messages of a whole log: uint32[n]. Raises CorruptObject."""
    try:
        lines = [line for line in words.tobytes().split(b"\n") if line.strip()]
        messages: list[WireMessage] = [json.loads(line) for line in lines]
    except ValueError as error:
        raise CorruptObject(f"a log of messages holds something else: {error}") from error
    if not all(isinstance(message, dict) for message in messages):
        raise CorruptObject("a log of messages holds something else.")
    return messages
