"""The tool that finds what a session said or noted before, by its words."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from tools.define import Tool, define
from tools.effects import Effect
from tools.errors import ToolFailed

_MOST_SHOWN = 20
_MOST_WORDS = 32
_SNIPPET = 48  # words


@dataclass(frozen=True)
class Memory:
    """Something said or noted. who: such as user, assistant or note; at: seconds since 1970"""

    text: str
    who: str = "note"
    at: float | None = None


class Memories(Protocol):
    """Where memories are: of one session, or of all that an agent may know."""

    async def memories(self) -> Sequence[Memory]:
        """All of them, the oldest first."""


@dataclass(frozen=True)
class Remembered:
    """position: of the memory, from 0 for the oldest; snippet: where its text holds the words"""

    position: int
    memory: Memory
    snippet: str


def memory_search(store: Memories, *, seconds: float = 20.0) -> Tool:
    """`search_memory` over `store`: what holds most of the words and the rarest of them first
    (BM25), words in all their English forms, letters without their accents."""

    async def search_memory(words: str, most: int = 5) -> str:
        """Searches what was said and noted earlier, also what is not in front of you any more.

        Args:
            words: The words to look for, the rarer the better
            most: How many memories to show, 20 at most
        """
        memories = await store.memories()
        shown = min(max(most, 1), _MOST_SHOWN)
        found = await asyncio.to_thread(best, memories, words, shown)
        if not found:
            return f"nothing was found in {len(memories)} memories; try other words"
        return "\n".join(_line(one) for one in found)

    return define(search_memory, effect=Effect.PURE, timeout=seconds)


def best(memories: Sequence[Memory], words: str, most: int) -> list[Remembered]:
    """The memories that fit best, the newer one first where two fit alike.

    Raises ToolFailed if there is no word to look for.
    """
    looked_for = list(dict.fromkeys(re.findall(r"\w+", words.lower())))[:_MOST_WORDS]
    if not looked_for:
        raise ToolFailed("there is no word to look for; give some")
    with closing(sqlite3.connect(":memory:")) as index:
        index.execute(
            "CREATE VIRTUAL TABLE memories USING fts5"
            "(text, tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        index.executemany(
            "INSERT INTO memories (rowid, text) VALUES (?, ?)",
            ((number, _whole(memory.text)) for number, memory in enumerate(memories)),
        )
        rows = index.execute(
            "SELECT rowid, snippet(memories, 0, '', '', '…', ?) FROM memories"
            " WHERE memories MATCH ? ORDER BY rank, rowid DESC LIMIT ?",
            (_SNIPPET, " OR ".join(f'"{word}"' for word in looked_for), most),
        ).fetchall()
    return [Remembered(number, memories[number], snippet) for number, snippet in rows]


def _whole(text: str) -> str:
    """SQLite takes neither half of a pair of surrogates."""
    return text.encode(errors="replace").decode()


def _line(found: Remembered) -> str:
    memory = found.memory
    when = "" if memory.at is None else f" {datetime.fromtimestamp(memory.at, UTC):%Y-%m-%d %H:%M}"
    return f"[{memory.who}{when}] {' '.join(found.snippet.split())}"
