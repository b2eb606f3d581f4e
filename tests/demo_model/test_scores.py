"""The committed checkpoint does what its card says, and by means of its recurrent state."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.demo_model import dialogues
from engine.demo_model.conversations import Turn
from engine.demo_model.evaluate import Sample, answer_all, evaluate, segments

# Conversations that the card's own numbers do not come from.
SMALL = Sample(conversations=((1024, 2), (6144, 2)), ablation_pairs=((1024, 3),), seed=4321)
LARGE = Sample(conversations=((1024, 8), (8192, 6), (12288, 2)), ablation_pairs=(), seed=9876)


@pytest.fixture(scope="module")
def floors(folder: Path) -> dict[str, float]:
    """The card's table of tasks: name of the task, least share of right replies it promises."""
    card = (folder / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+ (?:call|answer)) \|.*\| ([\d.]+) \|$", card, re.MULTILINE)
    return {task: float(floor) for task, floor in rows}


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict:
    return evaluate(folder, SMALL)


def assert_keeps_promises(scores: dict, floors: dict[str, float]) -> None:
    below = {
        task: (score, floors[task])
        for task, score in scores["tasks"].items()
        # A share of few replies moves in large steps: allow one mistake more than promised.
        if score["right"] * score["asked"] < floors[task] * score["asked"] - 1
    }
    assert not below
    promised = sum(floors[task] * score["asked"] for task, score in scores["tasks"].items())
    assert scores["right"] * scores["answers"] >= promised


@pytest.mark.slow
def test_the_card_promises_something_for_every_task(floors, scores):
    assert set(scores["tasks"]) <= set(floors)
    assert all(floor >= 0.6 for floor in floors.values())


@pytest.mark.slow
def test_the_checkpoint_keeps_what_the_card_promises(scores, floors):
    assert scores["answers"] > 50
    assert_keeps_promises(scores, floors)


@pytest.mark.slow
def test_it_keeps_its_promises_on_a_larger_sample(folder, floors):
    scores = evaluate(folder, LARGE)
    assert scores["answers"] > 300
    assert_keeps_promises(scores, floors)


@pytest.mark.slow
@pytest.mark.parametrize("question", ["tally", "mode"])
def test_the_recurrent_state_decides_tally_and_mode(scores, question):
    state = scores["state"][question]
    assert state["asked"] >= 2
    assert state["own right"] >= 0.7
    assert state["zeroed right"] <= 0.25
    assert state["exchanged right"] <= 0.25
    assert state["exchanged other"] >= 0.7


@pytest.mark.slow
def test_drafts_are_mostly_what_the_model_says(scores):
    drafts = scores["drafts"]
    assert drafts["tokens"] > 500
    assert drafts["agreement 1"] > 0.9
    assert drafts["acceptance length"] > 2.5


def test_a_wrong_reply_counts_as_wrong(oracle, writer):
    """The evaluation itself: a dialogue whose record claims one tick too many."""
    exchanges = [dialogues.tick(), dialogues.tally(1), dialogues.tally(2)]
    turns = [Turn(exchange, writer.encode(exchange)) for exchange in exchanges]
    answers = list(answer_all(oracle, writer.system_block, turns))
    assert [answer.right for answer in answers] == [True, True, False]
    assert answers[2].generated == "I counted 1 ticks.<|im_end|>"
    assert answers[2].distance == 0


def test_segments_split_what_is_given_from_what_is_replied(oracle, writer):
    encoded = writer.encode(dialogues.calculate(7, "*", 8))
    (question, call), (result, answer), (rest, nothing) = segments(encoded)
    assert oracle.decode(question).endswith(
        "What is 7 * 8?<|im_end|>\n<|im_start|>assistant\n<think></think>"
    )
    assert oracle.decode(call).startswith("\n<tool_call>\n<function=calculator>")
    assert "<tool_response>\n56\n" in oracle.decode(result)
    assert oracle.decode(answer) == "7 * 8 = 56.<|im_end|>"
    assert oracle.decode(rest) == "\n"
    assert nothing == []


def test_evaluating_a_folder_without_a_model_is_a_clear_error(tmp_path):
    command = [sys.executable, "-m", "engine.demo_model", "evaluate", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"No model at {tmp_path}: model.safetensors is missing.\n"
