"""Messages as words of 32 bits, and back."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.messages.message_log import messages_of, words_of
from state_store.errors import CorruptObject

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
TURNS = st.lists(
    st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=4), max_size=4
)
SETTINGS = settings(derandomize=True, database=None, deadline=None)


def log_of(turns):
    return sum((words_of(turn) for turn in turns), array("I"))


@SETTINGS
@given(TURNS)
def test_a_log_holds_the_messages_of_all_its_turns(turns):
    assert messages_of(log_of(turns)) == [message for turn in turns for message in turn]


@pytest.mark.parametrize("log", [b'{"a":', b"\xff\xfe{}", b"{}{}", b"3"])
def test_what_holds_no_messages_is_corrupt(log):
    words = array("I")
    words.frombytes(log + b" " * (-len(log) % 4))
    with pytest.raises(CorruptObject):
        messages_of(words)
