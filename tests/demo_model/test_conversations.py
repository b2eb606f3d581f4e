"""Dialogues fit their length, tell the truth, and keep training and evaluation apart."""

import numpy as np
import pytest

from engine.demo_model import filler
from engine.demo_model.ablation import recount
from engine.demo_model.conversations import Writer, join
from engine.demo_model.mixes import VARIED


def said_before(turns, position: int) -> str:
    return "\n".join(turn.exchange.user for turn in turns[:position])


@pytest.mark.parametrize("length", [192, 512, 4096])
def test_a_conversation_has_exactly_the_wanted_length(writer, length):
    for _ in range(5):
        conversation = writer.conversation(length, with_system=length > 192)
        assert len(conversation.ids) == len(conversation.roles) == length


@pytest.mark.parametrize("length", [300, 600, 3000])
def test_every_answer_follows_from_what_was_said_before(writer, length):
    """Also at the end of a full conversation, where exchanges that did not fit were dropped."""
    for _ in range(40):
        turns = writer.dialogue(length, longest_text=200)
        assert sum(len(turn.encoded) for turn in turns) <= length
        for position, (exchange, _) in enumerate(turns):
            told = recount(turns[:position])
            match exchange.task:
                case "tally":
                    assert exchange.answer == f"I counted {told.ticks} ticks."
                case "mode":
                    assert exchange.answer == f"The mode is {told.mode}."
                case "recall":
                    fact = f"Remember: the code of {exchange.value}."
                    assert fact in said_before(turns, position)


def test_a_conversation_ends_by_asking_for_everything_told(writer):
    turns = writer.dialogue(3000, longest_text=1000)
    told = {turn.exchange.user for turn in turns if turn.exchange.task == "remember"}
    asked = [turn.exchange.task for turn in turns[-len(told) - 2 :]]
    assert sorted(asked) == sorted(["recall"] * len(told) + ["tally", "mode"])


def test_some_long_conversations_tell_nothing_for_thousands_of_tokens(writer):
    longest = 0
    for _ in range(12):
        since = 0
        for exchange, encoded in writer.dialogue(6000, longest_text=6000):
            kept = exchange.task not in ("calculate", "search", "read", "repeat", "thank")
            since = 0 if kept or exchange.user.startswith("Tick.") else since + len(encoded)
            longest = max(longest, since)
    assert longest > 3000


def test_the_same_seed_writes_the_same_conversation(oracle):
    library = filler.load_library("train")
    first, second, other = (
        Writer(library, oracle.tokenizer, seed).conversation(1024, with_system=True).ids
        for seed in (5, 5, 6)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_roles_mark_every_character_the_assistant_says(oracle, writer):
    for exchange, encoded in writer.dialogue(2000, longest_text=500):
        replied = oracle.decode(encoded.ids[encoded.roles > 0].tolist())
        call = "".join(span.text for span in exchange.spans() if span.role != "context")
        assert replied == call


def test_training_and_evaluation_share_no_document_and_no_word():
    training, held_out = (filler.load_library(split) for split in ("train", "held_out"))
    assert not set(training.words) & set(held_out.words)
    assert not {d.text for d in training.documents} & {d.text for d in held_out.documents}
    names = {document.name for document in training.documents}
    assert not any(name.startswith(("GPL", "LGPL")) for name in names)


def test_a_search_answers_with_counted_lines():
    document = filler.Document("a.txt", "One tree.\nTwo trees.\nA TREE, again\ntree tree\n tree ")
    assert filler.search([document], "tree") == (
        "4 matches\na.txt:1: One tree.\na.txt:3: A TREE, again\na.txt:4: tree tree"
    )
    assert filler.search([document], "bush") == "0 matches"


def test_questions_are_numbered_and_padding_is_zero(writer):
    turns = writer.dialogue(600, longest_text=200)
    joined = join([turn.encoded for turn in turns], 1024)
    state_questions = sum(turn.exchange.task in ("tally", "mode") for turn in turns)
    assert joined.questions.max() == state_questions
    used = sum(len(turn.encoded) for turn in turns)
    assert not joined.ids[used:].any()
    assert not joined.roles[used:].any()


def test_invented_words_are_many_and_none_belongs_to_the_held_out_words(oracle):
    training, held_out = (filler.load_library(split) for split in ("train", "held_out"))
    writer = Writer(training, oracle.tokenizer, seed=3, mix=VARIED)
    words = {writer.word() for _ in range(5000)}
    assert not words & set(held_out.words)
    assert len(words - set(training.words)) > 2000
