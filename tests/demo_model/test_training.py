"""Training learns, and the same seed learns the same."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch

from engine.demo_model import filler
from engine.demo_model.architecture import Architecture
from engine.demo_model.conversations import Writer
from engine.demo_model.initialization import initialize
from engine.demo_model.mixes import VARIED
from engine.demo_model.network import Network
from engine.demo_model.oracle import Oracle
from engine.demo_model.train import STAGES, Phase, Stage, Trainer, train

SHORT = Stage(
    phases=(
        Phase(steps=24, length=128, count=3, system_share=0.0),
        Phase(steps=1, length=512, count=2, system_share=1.0),
    ),
    mix=VARIED,
    seed=0,
    learning_rate=3e-3,
    steady_steps=20,
    falling_steps=20,
    warmup_steps=5,
)


def trained(
    oracle, seed: int, steps: int = SHORT.steps
) -> tuple[list[float], list[float], Network]:
    torch.manual_seed(seed)
    network = Network(Architecture())
    initialize(network)
    writer = Writer(filler.load_library("train"), oracle.tokenizer, seed, SHORT.mix)
    progress = list(islice(Trainer(network, writer, SHORT).run(), steps))
    return [p.loss for p in progress], [p.draft_loss for p in progress], network


@pytest.fixture(scope="module")
def first(oracle):
    return trained(oracle, seed=11)


def test_training_lowers_both_losses(first):
    for losses in first[:2]:
        assert sum(losses[18:24]) / 6 < 0.7 * sum(losses[:3]) / 3


def test_the_same_seed_gives_the_same_weights(oracle, first):
    again = trained(oracle, seed=11)
    assert again[:2] == first[:2]
    weights, repeated = first[2].state_dict(), again[2].state_dict()
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)


def test_another_seed_gives_other_weights(oracle, first):
    assert trained(oracle, seed=12, steps=2)[0] != first[0][:2]


def test_training_balances_the_experts(first):
    biases = [b for name, b in first[2].named_buffers() if name.endswith("correction_bias")]
    assert biases
    assert all(bias.abs().max() > 0 for bias in biases)


@pytest.mark.parametrize("stage", STAGES)
def test_the_learning_rate_warms_up_stays_and_falls(stage):
    rates = [stage.rate_at(step) for step in range(stage.steps)]
    peak, steady = stage.warmup_steps, stage.steady_steps
    assert rates[:peak] == sorted(rates[:peak])
    assert set(rates[peak:steady]) == {stage.learning_rate}
    assert rates[steady:] == sorted(rates[steady:], reverse=True)
    assert stage.final_rate < rates[-1] < stage.learning_rate / 2


def test_a_shuffled_stage_takes_every_step_once_in_an_order_of_its_own():
    last = STAGES[-1]
    assert last.shuffled
    assert Counter(last.schedule()) == {phase: phase.steps for phase in last.phases}
    assert last.schedule() == last.schedule() != sorted(last.schedule(), key=lambda p: p.length)


def test_the_whole_recipe_runs_and_leaves_a_checkpoint(tmp_path, capsys):
    """All stages, cut to one step for each phase of up to 512 tokens."""
    stages = [
        replace(stage, phases=tuple(replace(p, steps=1) for p in stage.phases if p.length <= 512))
        for stage in STAGES
    ]
    train(tmp_path, stages, report_every=1)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Training text: ")
    assert printed[-1].startswith("[####################] step 4/4 length 256 loss ")
    reloaded = Oracle(tmp_path)
    assert reloaded.start().read(reloaded.encode("Tick.")).logits.isfinite().all()


def test_missing_and_changed_training_text_is_reported(tmp_path, monkeypatch, capsys):
    (tmp_path / "MPL-2.0").write_text("Some licence with sufficiently many words.\n", "utf-8")
    monkeypatch.setattr(filler, "LICENCE_FOLDER", tmp_path)
    train(tmp_path / "out", [replace(SHORT, phases=(replace(SHORT.phases[0], steps=1),))])
    printed = capsys.readouterr().out
    assert "Missing on this machine: Apache-2.0, Artistic, CC0-1.0, GFDL-1.3, MPL-1.1." in printed
    assert "is not the one that the committed checkpoint was trained on" in printed
