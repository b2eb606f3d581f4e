"""What is said in the demo: an agent reads a long text with tools, then everything stops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics

from engine.demo_model import dialogues
from tools.calculator import calculator
from tools.file_search import file_search
from tools.registry import Registry

_LICENCE = Path("/usr/share/common-licenses/GPL-3")
_PASSAGE_CHARS = 2400
_CODE = ("harbour", "4712")
_OTHER_CODE = ("garden", "9034")
_WORDS = ("warranty", "source", "network", "patent")

SYSTEM = dialogues.SYSTEM_TEXT


@dataclass(frozen=True)
class Say:
    """One user message and, where the right answer is known, what it must contain."""

    text: str
    expect: str | None = None


@dataclass(frozen=True)
class Script:
    """opening:      up to the turn that is forked later
    reading:      the rest, up to the suspension
    continuation: after the resume
    branches:     what each fork of the earlier turn goes on with
    """

    opening: tuple[Say, ...]
    reading: tuple[Say, ...]
    continuation: tuple[Say, ...]
    branches: tuple[tuple[Say, ...], ...]


def source_text(given: Path | None) -> tuple[str, str]:
    """(file name, text) to read: the given file, the GNU GPL where Debian keeps it, or else the
    longest topics of Python's own documentation."""
    path = given or _LICENCE
    if given is not None or path.exists():
        return path.name, path.read_text("utf-8")
    longest = sorted(topics.topics.values(), key=len, reverse=True)[:4]
    return "python-topics", "\n".join(longest)


def write_script(text: str, passages: int) -> Script:
    """A script that reads up to `passages` passages of `text`, with tool calls in between."""
    (key, value), other = _CODE, _OTHER_CODE
    pages = _passages(text)[:passages]
    early = max(1, len(pages) // 3)
    opening = [
        Say(dialogues.remember(key, value).user),
        Say(dialogues.set_mode("blue").user),
        Say(dialogues.tick().user),
        *_read(pages[:early], first=0),
        Say(dialogues.tick().user),
    ]
    reading = [
        *_read(pages[early:], first=early),
        Say(dialogues.tick().user),
        Say(dialogues.tick().user),
    ]
    continuation = (
        Say(dialogues.recall(key, value).user, value),
        Say(dialogues.tally(4).user, "4 ticks"),
        Say(dialogues.ask_mode("blue").user, "blue"),
        _sum(318, 264),
        Say(f'Search the files for "{_WORDS[0]}".', "matches"),
    )
    branches = (
        (Say(dialogues.ask_mode("blue").user, "blue"), Say(dialogues.tally(2).user, "2 ticks")),
        (Say(dialogues.remember(*other).user), Say(dialogues.recall(*other).user, other[1])),
        (Say(dialogues.tick().user), Say(dialogues.tally(3).user, "3 ticks")),
    )
    return Script(tuple(opening), tuple(reading), continuation, branches)


def make_registry(folder: Path) -> Registry:
    """The agent's two tools: arithmetic, and a search in `folder`."""
    return Registry([calculator, file_search(folder)])


def _passages(text: str) -> list[str]:
    """`text` cut at line breaks into passages of about `_PASSAGE_CHARS` characters."""
    passages, lines, size = [], list[str](), 0
    for line in text.splitlines():
        lines.append(line)
        size += len(line) + 1
        if size >= _PASSAGE_CHARS:
            passages.append("\n".join(lines).strip())
            lines, size = [], 0
    return [*passages, "\n".join(lines).strip()] if size else passages


def _read(pages: list[str], *, first: int) -> list[Say]:
    said = []
    for number, page in enumerate(pages, start=first):
        said.append(Say(dialogues.read(page).user))
        if number % 2 == 0:
            said.append(_sum(17 * number + 25, 40 + number))
        else:
            said.append(Say(f'Search the files for "{_WORDS[number % len(_WORDS)]}".', "matches"))
    return said


def _sum(left: int, right: int) -> Say:
    return Say(f"What is {left} + {right}?", str(left + right))
