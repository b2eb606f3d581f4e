"""Training from nothing: a fixed number of steps, a fixed seed, one thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

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
from engine.demo_model.network import Network


@dataclass(frozen=True)
class Phase:
    """Steps at one length: `length` in tokens, `count` conversations a step."""

    steps: int
    length: int
    count: int
    system_share: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of training, apart from the text on this machine."""

    phases: tuple[Phase, ...]
    seed: int = 0
    learning_rate: float = 3e-3
    final_rate: float = 5e-5
    warmup_steps: int = 40
    steady_share: float = 0.5
    weight_decay: float = 0.05
    context_share: float = 0.1
    draft_weights: tuple[float, ...] = (0.25, 0.15)

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def rate_at(self, step: int) -> float:
        """Learning rate: warm-up, then steady, then linear down to the final rate."""
        done = step / self.steps
        falling = max(0.0, (done - self.steady_share) / (1 - self.steady_share))
        rate = self.learning_rate + falling * (self.final_rate - self.learning_rate)
        return rate * min(1.0, (step + 1) / self.warmup_steps)


RECIPE = Recipe(
    phases=(
        Phase(steps=900, length=192, count=12, system_share=0.0),
        Phase(steps=500, length=512, count=4, system_share=0.5),
        Phase(steps=200, length=2048, count=2, system_share=1.0),
        Phase(steps=120, length=4096, count=1, system_share=1.0),
        Phase(steps=60, length=8192, count=1, system_share=1.0),
        Phase(steps=20, length=12288, count=1, system_share=1.0),
    )
)


@dataclass(frozen=True)
class Progress:
    """One step's losses, in nats per weighted token; `draft_loss` is that of the first draft."""

    step: int
    length: int
    loss: float
    draft_loss: float


class Trainer:
    """A network with its optimizer and its endless supply of conversations."""

    def __init__(self, network: Network, writer: Writer, recipe: Recipe) -> None:
        self.network, self.writer, self.recipe = network, writer, recipe
        decayed = [p for p in network.parameters() if p.dim() >= 2]
        others = [p for p in network.parameters() if p.dim() < 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def run(self) -> Iterator[Progress]:
        """Trains through all phases, one step per item."""
        step = 0
        self.network.train()
        for phase in self.recipe.phases:
            for _ in range(phase.steps):
                for group in self._optimizer.param_groups:
                    group["lr"] = self.recipe.rate_at(step)
                batch = make_batch(self.writer, phase.length, phase.count, phase.system_share)
                loss, draft_loss = self._step(batch)
                step += 1
                yield Progress(step, phase.length, loss, draft_loss)

    def _step(self, batch: Batch) -> tuple[float, float]:
        network, recipe = self.network, self.recipe
        hidden = network.hidden(batch.ids, batch.view)
        loss = self._loss(hidden, batch, ahead=1)
        total, draft_losses = loss, []
        for ahead, weight in enumerate(recipe.draft_weights, start=1):
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
        kept = (batch.roles[:, ahead:] > 0) | (
            torch.rand(weights.shape) < self.recipe.context_share
        )
        kept &= weights > 0
        logits = self.network.lm_head(hidden[:, :-ahead][kept])
        losses = F.cross_entropy(logits, batch.ids[:, ahead:][kept], reduction="none")
        return (losses * weights[kept]).sum() / weights[kept].sum()


def train(folder: Path, recipe: Recipe = RECIPE, *, report_every: int = 25) -> None:
    """Trains tokenizer and network and writes the checkpoint to `folder`, printing progress."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    library = filler.load_library("train")
    shape = Architecture()
    trained = tokenizer.train_tokenizer(corpus.tokenizer_corpus(library), shape.vocab_size)
    tokenizer.save_tokenizer(trained, folder)
    wrapped = AutoTokenizer.from_pretrained(folder)
    network = Network(shape)
    initialize(network)
    trainer = Trainer(network, Writer(library, wrapped, recipe.seed + 1), recipe)
    start = time.monotonic()
    for progress in trainer.run():
        if progress.step % report_every == 0 or progress.step == recipe.steps:
            _report(progress, recipe, time.monotonic() - start)
    save_checkpoint(network.eval(), wrapped, folder)


def shortened(recipe: Recipe, divisor: int) -> Recipe:
    """The same recipe with fewer steps in every phase, for trying it out."""
    phases = [replace(p, steps=max(1, p.steps // divisor)) for p in recipe.phases]
    return replace(recipe, phases=tuple(phases))


def _report(progress: Progress, recipe: Recipe, seconds: float) -> None:
    filled = round(20 * progress.step / recipe.steps)
    print(
        f"[{'#' * filled}{'.' * (20 - filled)}] step {progress.step}/{recipe.steps}"
        f" length {progress.length} loss {progress.loss:.3f} draft {progress.draft_loss:.3f}"
        f" {seconds:.0f} s",
        flush=True,
    )
