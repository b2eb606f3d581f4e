import os
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.demo_model import filler
from tools.errors import FolderMissing, ToolFailed
from tools.file_search import Folder, file_search

TEXT = "A page is here.\n  Pages are there; PAGE again.\n\nno match\na.page\nb page\n"


def folder(root, max_bytes=1000, seconds=10.0):
    return Folder(root, max_bytes, seconds)


async def answer(root, pattern):
    return (await file_search(root).call({"pattern": pattern})).text


async def test_the_answer_counts_matching_lines_and_shows_three(tmp_path):
    (tmp_path / "notes.txt").write_text(TEXT)
    assert await answer(tmp_path, "page") == (
        "4 matches\n"
        "notes.txt:1: A page is here.\n"
        "notes.txt:2: Pages are there; PAGE again.\n"
        "notes.txt:5: a.page"
    )
    assert await answer(tmp_path, "nothing") == "0 matches"


@pytest.mark.parametrize("word", ["the", "License", "copy", "b page", "a.page", "zzz"])
async def test_the_answer_is_the_one_the_demo_model_was_trained_on(tmp_path, word):
    trained = filler.load_library("train").documents
    documents = [filler.Document("notes.txt", TEXT), max(trained, key=lambda doc: len(doc.text))]
    documents.sort(key=lambda document: document.name)
    for document in documents:
        (tmp_path / document.name).write_text(document.text)
    assert len({document.name for document in documents}) == 2
    found = folder(tmp_path, max_bytes=2**20).find(word)
    assert found.text() == filler.search(documents, word)
    assert await answer(tmp_path, word) == found.text()


async def test_the_word_is_not_a_regular_expression(tmp_path):
    (tmp_path / "notes.txt").write_text("axb\na.b\n")
    assert await answer(tmp_path, "a.b") == "1 matches\nnotes.txt:2: a.b"


async def test_files_are_found_in_subfolders_in_a_fixed_order(tmp_path):
    for name in ("z.txt", *(f"{letter}/two.txt" for letter in "hcgbfed"), "a/b/three", "a/one"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("page")
    found = folder(tmp_path).find("page")
    assert [match.file for match in found.matches] == [
        "z.txt", "a/one", "a/b/three", *(f"{letter}/two.txt" for letter in "bcdefgh"),
    ]  # fmt: skip


async def test_links_out_of_the_folder_show_nothing(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("password")
    (root / "file").symlink_to(outside / "secret.txt")
    (root / "folder").symlink_to(outside)
    (root / "up").symlink_to("..")
    found = folder(root).find("password")
    assert found.matches == []
    assert found.skipped == {"link": 3}
    for pattern in ("../outside/secret.txt", "password", str(outside)):
        assert await answer(root, pattern) == "0 matches"


def test_binary_and_oversized_files_are_skipped_and_counted(tmp_path):
    (tmp_path / "zeros").write_bytes(b"page\0page")
    (tmp_path / "latin").write_bytes("page à page".encode("latin-1"))
    (tmp_path / "just-right").write_text("page" + " " * 996)
    (tmp_path / "too-long").write_text("page" + " " * 997)
    os.mkfifo(tmp_path / "pipe")
    found = folder(tmp_path).find("page")
    assert found.text() == (
        "1 matches\njust-right:1: page\nskipped: 2 binary, 1 too large, 1 unreadable"
    )


def test_a_very_long_line_is_shortened(tmp_path):
    (tmp_path / "one.js").write_text("page " * 150)
    (match,) = folder(tmp_path).find("page").matches
    assert match.text == ("page " * 150)[:400] + "…"


def test_all_matches_are_counted_and_few_are_kept(tmp_path):
    (tmp_path / "one.txt").write_text("page\n" * 300_000)
    tracemalloc.start()
    try:
        found = folder(tmp_path, max_bytes=2**21).find("page")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # the file has 1.5 MB
    finally:
        tracemalloc.stop()
    assert (found.count, len(found.matches)) == (300_000, 100)
    assert found.matches[-1].line == 100


@given(content=st.text(st.sampled_from("a\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029 \t")))
def test_lines_are_those_that_python_counts(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("lines")
    (root / "one").write_text(content, newline="")
    expected = [number for number, line in enumerate(content.splitlines(), 1) if "a" in line]
    lines = [match.line for match in folder(root).search(re.compile("a")).matches]
    assert lines == expected[:100]


def test_the_time_ends_in_the_middle_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "one.txt").write_text("page\n" * 30_000)
    seconds = iter((0, 0, 0, 100))  # as the clock shows them
    monkeypatch.setattr("tools.file_search.time.monotonic", lambda: next(seconds))
    with pytest.raises(ToolFailed, match="too large to search"):
        folder(tmp_path, seconds=50, max_bytes=2**20).find("page")


def test_a_search_that_takes_too_long_is_given_up(tmp_path):
    (tmp_path / "one.txt").write_text("page")
    with pytest.raises(ToolFailed, match="too large to search in 0 seconds"):
        folder(tmp_path, seconds=0).find("page")


async def test_an_empty_pattern_is_refused(tmp_path):
    outcome = await file_search(tmp_path).call({"pattern": " "})
    assert outcome.error
    assert outcome.text == "the pattern is empty; give the word to find"


@given(word=st.text(min_size=1))
def test_any_word_can_be_searched(tmp_path_factory, word):
    found = folder(tmp_path_factory.getbasetemp()).find(f"a{word}")
    assert found.text().startswith(f"{found.count} matches")


def test_a_missing_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(FolderMissing, match="is not a folder"):
            file_search(path)
