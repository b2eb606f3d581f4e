"""Real English text that stands between the events of a dialogue.

Training text comes from the Python documentation topics that ship with CPython and, on Debian,
from licence texts. The whole GNU GPL and LGPL family is held out: GPL-3 is what the demo reads,
and its relatives share sentences with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pydoc_data import topics
from typing import Literal
from zlib import crc32

LICENCE_FOLDER = Path("/usr/share/common-licenses")
TRAINING_LICENCES = ("Apache-2.0", "Artistic", "CC0-1.0", "GFDL-1.3", "MPL-1.1", "MPL-2.0")
HELD_OUT_LICENCE = "GPL-3"
_HELD_OUT_TOPIC_SHARE = 8
_WORD = re.compile(r"(?<![A-Za-z])[a-z]{4,11}(?![A-Za-z])")
_RESERVED_WORDS = frozenset(("tick", "ticks", "mode", "none", "matches"))

Split = Literal["train", "held_out"]


def is_held_out(text: str) -> bool:
    """True for the fixed one in eight strings, by checksum, that training never sees."""
    return crc32(text.encode()) % _HELD_OUT_TOPIC_SHARE == 0


@dataclass(frozen=True)
class Document:
    """One file of running text."""

    name: str
    text: str

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines of the text; line numbers that users see start at one."""
        return tuple(self.text.splitlines())


@dataclass(frozen=True)
class Library:
    """The documents of one split and the words that dialogues of that split may ask about."""

    split: Split
    documents: tuple[Document, ...]
    words: tuple[str, ...]


def load_library(split: Split) -> Library:
    """Reads the text of a split; words of `train` and `held_out` never overlap."""
    held_out = split == "held_out"
    documents = [
        Document(f"{name}.txt", text)
        for name, text in sorted(topics.topics.items())
        if is_held_out(name) == held_out
    ]
    names = (HELD_OUT_LICENCE,) if held_out else TRAINING_LICENCES
    paths = [LICENCE_FOLDER / name for name in names]
    documents += [Document(path.name, path.read_text("utf-8")) for path in paths if path.exists()]
    words = {word for document in documents for word in _WORD.findall(document.text)}
    return Library(
        split, tuple(documents), tuple(sorted(word for word in words if may_be_used(word, split)))
    )


def may_be_used(word: str, split: Split) -> bool:
    """Whether dialogues of a split may ask about a word; no word belongs to both splits."""
    return word not in _RESERVED_WORDS and is_held_out(word) == (split == "held_out")


def checksum(library: Library) -> int:
    """A number that tells apart libraries with different text."""
    return crc32("\0".join(f"{doc.name}\0{doc.text}" for doc in library.documents).encode())


def missing_licences() -> tuple[str, ...]:
    """Names of the licence texts that training uses and this machine lacks."""
    return tuple(name for name in TRAINING_LICENCES if not (LICENCE_FOLDER / name).exists())


def reading_documents(library: Library) -> tuple[Document, ...]:
    """The running prose of a library: its licences, or every document where there are none."""
    prose = tuple(document for document in library.documents if not document.name.endswith(".txt"))
    return prose or library.documents


def search(documents: Sequence[Document], word: str, most: int = 3) -> str:
    """What the `file_search` tool answers: a count of matching lines, then the first few."""
    whole_word = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    matches = [
        (document.name, number, line.strip())
        for document in documents
        for number, line in enumerate(document.lines, start=1)
        if whole_word.search(line)
    ]
    return format_matches(matches, most)


def format_matches(matches: list[tuple[str, int, str]], most: int = 3) -> str:
    """Renders (file, line number, text) matches as `N matches` and up to `most` lines."""
    lines = [f"{name}:{number}: {line}" for name, number, line in matches[:most]]
    return "\n".join([f"{len(matches)} matches", *lines])
