"""The ids of prompts that an engine remembers, so that they are not sent again."""

import tracemalloc
from array import array

import pytest

from engine.prompts import Name, Prefixes, ids_of

MANY = 1_000_000
ID = 8  # bytes


@pytest.fixture
def prefixes():
    return Prefixes(capacity=100)


def name(page_hash, tokens):
    return Name(page_hash=page_hash, tokens=tokens)


def ids(*several):
    return array("q", several)


def test_ids_are_read_as_they_are_sent():
    assert ids_of(b"\x01\x00\x00\x00\xff\xff\xff\xff") == ids(1, (1 << 32) - 1)
    assert ids_of(b"") == ids()
    with pytest.raises(ValueError, match="size"):
        ids_of(b"\x01\x00")


def test_what_is_remembered_comes_before_what_is_new(prefixes):
    prefixes.put(name("a", 2), ids(1, 2, 3))
    assert prefixes.followed_by(name("a", 2), ids(7)) == ids(1, 2, 7)
    assert prefixes.followed_by(name("a", 2), ids(8)) == ids(1, 2, 8)  # as if it was never done


@pytest.mark.parametrize("asked", [name("a", 4), name("b", 2)])
def test_what_is_not_known_is_none(prefixes, asked):
    prefixes.put(name("a", 2), ids(1, 2, 3))
    assert prefixes.followed_by(asked, ids(7)) is None


def test_a_prompt_that_sglang_has_cut_off_is_not_known_any_more(prefixes):
    prompt = array("q", range(60))
    prefixes.put(name("a", 60), prompt)
    del prompt[50:]
    assert prefixes.followed_by(name("a", 60), ids(7)) is None
    prefixes.put(name("a", 50), array("q", range(50)))
    prefixes.put(name("b", 50), array("q", range(50)))  # 100 tokens, which there is room for
    assert prefixes.followed_by(name("a", 50), ids()) is not None


def test_the_longest_unused_is_forgotten_first(prefixes):
    for page_hash in ("a", "b"):
        prefixes.put(name(page_hash, 50), array("q", range(50)))
    prefixes.followed_by(name("a", 50), ids())
    prefixes.put(name("c", 50), array("q", range(50)))
    known = [prefixes.followed_by(name(page_hash, 50), ids()) is not None for page_hash in "abc"]
    assert known == [True, False, True]


def test_a_turn_copies_what_is_known_once():
    prefixes = Prefixes()
    prefixes.put(name("a", MANY), array("q", bytes(MANY * ID)))
    tracemalloc.start()
    try:
        prompt = prefixes.followed_by(name("a", MANY), array("q", bytes(50 * ID)))
        prefixes.put(name("b", MANY + 40), prompt)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MANY * ID < most < 1.5 * MANY * ID
