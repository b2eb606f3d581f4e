"""Training from nothing: a fixed number of steps, a fixed seed, one thread."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer

from engine.demo_model import corpus, filler, tokenizer
from engine.demo_model.architecture import Architecture
from engine.demo_model.batches import Batch, make_batch
from engine.demo_model.conversations import Writer
from engine.demo_model.export import save_checkpoint
from engine.demo_model.initialization import initialize
from engine.demo_model.mixes import PLAIN, REMEMBERING, VARIED, Mix
from engine.demo_model.network import Network


@dataclass(frozen=True)
class Phase:
    """Steps at one length: `length` in tokens, `count` conversations a step."""

    steps: int
    length: int
    count: int
    system_share: float


@dataclass(frozen=True)
class Stage:
    """Training from the weights of the stage before, or from random ones, with a fresh optimizer.

    shuffled: steps of all phases come in random order instead of one phase after the other.
    steady_steps, falling_steps: how long the learning rate stays, and how long its way from
    `learning_rate` to `final_rate` then takes, in steps; a stage may end before that.
    """

    phases: tuple[Phase, ...]
    mix: Mix
    seed: int
    learning_rate: float
    steady_steps: int
    falling_steps: int
    shuffled: bool = False
    final_rate: float = 5e-5
    warmup_steps: int = 40
    weight_decay: float = 0.05
    context_share: float = 0.1
    draft_weights: tuple[float, ...] = (0.25, 0.15)

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def schedule(self) -> list[Phase]:
        """The phase of every step."""
        order = [phase for phase in self.phases for _ in range(phase.steps)]
        if self.shuffled:
            random.Random(self.seed).shuffle(order)
        return order

    def rate_at(self, step: int) -> float:
        """Learning rate: warm-up, then steady, then linear down towards the final rate."""
        falling = max(0.0, (step - self.steady_steps) / self.falling_steps)
        rate = self.learning_rate + falling * (self.final_rate - self.learning_rate)
        return rate * min(1.0, (step + 1) / self.warmup_steps)


# First how to copy and to count, from short to longer; then everything at every length; then what
# has to be remembered.
STAGES = (
    Stage(
        phases=(
            Phase(steps=900, length=192, count=12, system_share=0.0),
            Phase(steps=500, length=512, count=4, system_share=0.5),
            Phase(steps=200, length=2048, count=2, system_share=1.0),
        ),
        mix=PLAIN,
        seed=0,
        learning_rate=3e-3,
        steady_steps=900,
        falling_steps=900,
    ),
    Stage(
        phases=(
            Phase(steps=150, length=256, count=8, system_share=0.0),
            Phase(steps=120, length=1024, count=4, system_share=0.5),
            Phase(steps=100, length=2048, count=2, system_share=1.0),
            Phase(steps=80, length=4096, count=1, system_share=1.0),
            Phase(steps=40, length=8192, count=1, system_share=1.0),
            Phase(steps=10, length=12288, count=1, system_share=1.0),
        ),
        mix=VARIED,
        seed=1000,
        learning_rate=1.5e-3,
        steady_steps=250,
        falling_steps=250,
        shuffled=True,
    ),
    Stage(
        phases=(
            Phase(steps=60, length=256, count=12, system_share=0.0),
            Phase(steps=110, length=1024, count=4, system_share=0.5),
            Phase(steps=40, length=2048, count=2, system_share=1.0),
            Phase(steps=30, length=4096, count=1, system_share=1.0),
            Phase(steps=15, length=8192, count=1, system_share=1.0),
        ),
        mix=REMEMBERING,
        seed=2000,
        learning_rate=1.5e-3,
        steady_steps=100,
        falling_steps=155,
        shuffled=True,
    ),
)

# `filler.checksum` of the text behind the committed checkpoint: CPython 3.11.7 on Debian 12.
COMMITTED_TEXT = 0x5D81AC6B


@dataclass(frozen=True)
class Progress:
    """One step's losses, in nats per weighted token; `draft_loss` is that of the first draft."""

    step: int
    length: int
    loss: float
    draft_loss: float


class Trainer:
    """A network with its optimizer and its endless supply of conversations, for one stage."""

    def __init__(self, network: Network, writer: Writer, stage: Stage) -> None:
        self.network, self.writer, self.stage = network, writer, stage
        decayed = [p for p in network.parameters() if p.dim() >= 2]
        others = [p for p in network.parameters() if p.dim() < 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": stage.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def run(self) -> Iterator[Progress]:
        """Trains through all phases, one step per item."""
        self.network.train()
        for step, phase in enumerate(self.stage.schedule()):
            for group in self._optimizer.param_groups:
                group["lr"] = self.stage.rate_at(step)
            batch = make_batch(self.writer, phase.length, phase.count, phase.system_share)
            loss, draft_loss = self._step(batch)
            yield Progress(step + 1, phase.length, loss, draft_loss)

    def _step(self, batch: Batch) -> tuple[float, float]:
        network = self.network
        hidden = network.hidden(batch.ids, batch.view)
        loss = self._loss(hidden, batch, ahead=1)
        total, draft_losses = loss, []
        for ahead, weight in enumerate(self.stage.draft_weights, start=1):
            hidden = network.draft_hidden(batch.ids, hidden, ahead)
            draft_losses.append(self._loss(hidden, batch, ahead + 1))
            total = total + weight * draft_losses[-1]
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self._optimizer.step()
        return loss.item(), draft_losses[0].item()

    def _loss(self, hidden: Tensor, batch: Batch, ahead: int) -> Tensor:
        """Weighted cross-entropy, on every answer token and on a random few of the context.

        Leaving most of the context out saves the projection to the vocabulary there, which is a
        quarter of a step; what is left weighs as much as if all of it weighed a twentieth.
        """
        weights = batch.weights(ahead, context_weight=0.5)
        kept = (batch.roles[:, ahead:] > 0) | (torch.rand(weights.shape) < self.stage.context_share)
        kept &= weights > 0
        logits = self.network.lm_head(hidden[:, :-ahead][kept])
        losses = F.cross_entropy(logits, batch.ids[:, ahead:][kept], reduction="none")
        return (losses * weights[kept]).sum() / weights[kept].sum()


def train(folder: Path, stages: Sequence[Stage] = STAGES, *, report_every: int = 20) -> None:
    """Trains tokenizer and network and writes the checkpoint to `folder`, printing progress."""
    torch.set_num_threads(1)
    library = filler.load_library("train")
    _report_text(library)
    shape = Architecture()
    trained = tokenizer.train_tokenizer(corpus.tokenizer_corpus(library), shape.vocab_size)
    # The old checkpoint stays whole until there is a new one: its tokenizer too.
    with TemporaryDirectory() as scratch:
        tokenizer.save_tokenizer(trained, Path(scratch))
        wrapped = AutoTokenizer.from_pretrained(scratch)
    torch.manual_seed(stages[0].seed)
    network = Network(shape)
    initialize(network)
    start, all_steps, done = time.monotonic(), sum(stage.steps for stage in stages), 0
    for number, stage in enumerate(stages):
        if number:
            torch.manual_seed(stage.seed)
        writer = Writer(library, wrapped, stage.seed + 1, stage.mix)
        for progress in Trainer(network, writer, stage).run():
            done += 1
            if done % report_every == 0 or done == all_steps:
                _report(progress, done, all_steps, time.monotonic() - start)
    save_checkpoint(network.eval(), wrapped, folder)
    tokenizer.save_tokenizer(trained, folder)


def _report_text(library: filler.Library) -> None:
    characters = sum(len(document.text) for document in library.documents)
    print(
        f"Training text: {len(library.documents)} documents, {characters} characters,"
        f" {len(library.words)} words."
    )
    if missing := filler.missing_licences():
        print(f"Missing on this machine: {', '.join(missing)}. Training goes on without.")
    if (checksum := filler.checksum(library)) != COMMITTED_TEXT:
        print(
            f"This text (checksum {checksum:08x}) is not the one that the committed checkpoint was"
            f" trained on ({COMMITTED_TEXT:08x}): expect another tokenizer and other weights."
        )


def _report(progress: Progress, done: int, steps: int, seconds: float) -> None:
    filled = 20 * done // steps
    print(
        f"[{'#' * filled}{'.' * (20 - filled)}] step {done}/{steps}"
        f" length {progress.length} loss {progress.loss:.3f} draft {progress.draft_loss:.3f}"
        f" {seconds:.0f} s",
        flush=True,
    )
