"""What a Google-style docstring says about a function and its parameters."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Examples?|Notes?):\s*")
_ENTRY = re.compile(r"(?P<indent>\s+)\*{0,2}(?P<name>\w+)(?:\s*\([^)]*\))?:\s*(?P<text>.*)")


def describe(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the description of each parameter in `Args:`.

    Wrapped lines are joined; paragraphs stay apart.
    """
    sections: dict[str, list[str]] = {"": []}
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if heading := _SECTION.fullmatch(line):
            section = "Args" if heading[1] == "Arguments" else heading[1]
        sections.setdefault(section, [])
        if not heading:
            sections[section].append(line)
    paragraphs = re.split(r"\n\s*\n", "\n".join(sections[""]))
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return text.strip(), _entries(sections.get("Args", []))


def _entries(lines: list[str]) -> dict[str, str]:
    entries: dict[str, list[str]] = {}
    current: list[str] = []
    indent: str | None = None
    for line in lines:
        entry = _ENTRY.fullmatch(line)
        if entry and indent in (None, entry["indent"]):
            indent = entry["indent"]
            current = entries.setdefault(entry["name"], [])
            line = entry["text"]
        current.extend(line.split())
    return {name: " ".join(words) for name, words in entries.items()}
