"""The Python in docs/store.md runs, on a session of four turns, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "store.md"


def functions(heading: str) -> dict:
    """What the Python blocks under a heading define."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S):
        exec(block, names)
    return names


async def test_the_page_shows_how_to_go_back_and_compare(writer, capsys):
    session = await writer.session([1, 2, 3, 4], [5], [6, 7], [8])
    await functions("History")["try_another_way"](writer.store, session.id)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 tokens are common, 3 only in the fork"
    assert [line.split(" tokens")[0].strip() for line in lines[1:]] == ["4", "5", "7", "8"]
    assert lines[2].endswith(session.id)
    assert await writer.history(session.id) == [1, 2, 3, 4, 5]


async def test_the_page_shows_how_to_find_by_labels(writer, capsys):
    session = await writer.session([1, 2, 3])
    await functions("Labels")["find_by_label"](writer.store, session.id)
    assert capsys.readouterr().out.splitlines() == [
        "1 session, {'team': 'search', 'status': 'done'}",
        "1 snapshot of 3 tokens",
    ]


async def test_the_page_shows_how_to_limit_a_tenant(store, capsys):
    await functions("Usage and quotas")["limit"](store, "default")
    assert capsys.readouterr().out == "Quota(bytes=68719476736, tokens=None, sessions=1000)\n"
