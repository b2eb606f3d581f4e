"""What was said before is found by its words, the best first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.memory_search import Memory, best, memory_search

SAID = [
    Memory("My sister Zoë lives in Lisbon.", "user", 1_700_000_000.0),
    Memory("Noted. Lisbon is one hour behind Madrid.", "assistant", 1_700_000_060.0),
    Memory("The deployment key is rotated every month."),
    Memory("We were running three migrations on the database, and the database was slow."),
    Memory("A database is mentioned here."),
    Memory(" ".join(["filler"] * 200) + " needle " + " ".join(["filler"] * 200)),
]


class Kept:
    async def memories(self):
        return SAID


def positions(words, most=10):
    return [one.position for one in best(SAID, words, most)]


async def test_the_tool_says_who_said_it_and_when():
    tool = memory_search(Kept())
    result = await tool.call({"words": "sister"})
    assert result.text == "[user 2023-11-14 22:13] My sister Zoë lives in Lisbon."
    result = await tool.call({"words": "where does her sister live"})
    assert result.text.startswith("[user 2023-11-14 22:13]")
    result = await tool.call({"words": "deployment key", "most": 1})
    assert result.text == "[note] The deployment key is rotated every month."
    result = await tool.call({"words": "submarine"})
    assert (result.text, result.error) == (
        "nothing was found in 6 memories; try other words", False
    )  # fmt: skip
    result = await tool.call({"words": " ?! "})
    assert (result.text, result.error) == ("there is no word to look for; give some", True)


def test_other_forms_of_a_word_are_found():
    assert positions("migrate run") == [3]
    assert positions("ZOE") == [0]
    assert positions("rotating keys") == [2]


def test_what_holds_more_of_the_words_and_the_rarer_ones_comes_first():
    assert positions("lisbon madrid")[:2] == [1, 0]
    assert positions("slow database")[0] == 3
    assert positions("sister database")[0] == 0


def test_the_newer_of_two_that_fit_alike_comes_first():
    twice = [Memory("the same"), Memory("other"), Memory("the same")]
    assert [one.position for one in best(twice, "same", 10)] == [2, 0]


def test_a_long_memory_is_shown_where_it_holds_the_words():
    (found,) = best(SAID, "needle", 5)
    assert "needle" in found.snippet
    assert len(found.snippet) < 500


def test_no_more_are_shown_than_wanted():
    many = [Memory(f"page {number}") for number in range(100)]
    assert len(best(many, "page", 7)) == 7


@settings(max_examples=100)
@given(words=st.text(), texts=st.lists(st.text(), max_size=3))
def test_whatever_is_looked_for_is_no_syntax(words, texts):
    found = best([Memory(text) for text in [*texts, "a"]], f"a {words}", 5)
    assert "a" in {one.memory.text for one in found}
