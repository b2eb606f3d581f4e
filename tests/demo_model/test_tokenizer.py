"""The tokenizer gives back every text and keeps chat markers whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.demo_model import corpus, filler
from engine.demo_model.tokenizer import CONTROL_TOKENS, MARKUP_TOKENS, train_tokenizer

MODEL = Path(__file__).parents[2] / "models" / "demo"
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
PIECES = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",))),
    st.sampled_from(CONTROL_TOKENS + MARKUP_TOKENS),
)


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_any_text_comes_back_unchanged(text):
    ids = ids_of(text)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= token < 1024 for token in ids)


@pytest.mark.parametrize("marker", CONTROL_TOKENS + MARKUP_TOKENS)
def test_a_marker_is_one_token_wherever_it_stands(marker):
    assert len(ids_of(marker)) == 1
    assert ids_of(f"a{marker}b") == ids_of("a") + ids_of(marker) + ids_of("b")


def test_only_turn_markers_are_hidden_from_users():
    everything = "".join(CONTROL_TOKENS + MARKUP_TOKENS)
    shown = TOKENIZER.decode(ids_of(everything), skip_special_tokens=True)
    assert shown == "".join(MARKUP_TOKENS)


def test_every_digit_is_a_token_of_its_own():
    assert len(ids_of("0123456789")) == 10


def test_the_same_text_gives_the_same_tokenizer():
    library = filler.load_library("train")
    first, second = (train_tokenizer(corpus.tokenizer_corpus(library), 1024) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 1024
