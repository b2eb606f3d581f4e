"""Batches of conversations as tensors, and what attention may see of them in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from engine.demo_model.conversations import Encoded, Writer
from engine.demo_model.network import QuestionView

Sight = Literal["everything", "own turn", "partner"]
_SIGHTS: tuple[Sight, ...] = ("everything", "own turn", "partner")


@dataclass(frozen=True)
class Batch:
    """ids, roles, questions: int64[batch, length], as in `Encoded`; `view` for attention."""

    ids: Tensor
    roles: Tensor
    questions: Tensor
    view: QuestionView | None

    def weights(self, ahead: int, context_weight: float) -> Tensor:
        """Loss weight of the token `ahead` of each position, float32[batch, length - ahead]."""
        by_role = torch.tensor([context_weight, 1.0, 2.0])
        return by_role[self.roles[:, ahead:]] * (self.ids[:, ahead:] != 0)


def make_batch(writer: Writer, length: int, count: int, system_share: float) -> Batch:
    """`count` conversations of `length` tokens; a share of them begins with the system block."""
    rows = [
        writer.conversation(length, with_system=writer.random.random() < system_share)
        for _ in range(count)
    ]
    sights = [writer.random.choice(_SIGHTS) for _ in rows]
    if count == 1:
        sights = ["own turn" if sight == "partner" else sight for sight in sights]
    ids, roles, questions = (
        torch.from_numpy(np.stack([getattr(row, name) for row in rows]))
        for name in ("ids", "roles", "questions")
    )
    return Batch(ids, roles, questions, question_view(questions, sights))


def question_view(questions: Tensor, sights: list[Sight]) -> QuestionView | None:
    """Cuts off, row by row, what attention could tell the answer to a tally or mode question.

    These answers are to come from the recurrent state alone. In rows whose sight is `own turn` the
    tokens of such a question and its answer see only that turn; with `partner` they also see all of
    the conversation in the row before, whose ticks and modes are other ones. Rows with sight of
    `everything` stay as they are at inference. questions: int64[batch, length], see `Encoded`.
    """
    limited = torch.tensor([sight != "everything" for sight in sights])
    with_partner = torch.tensor([sight == "partner" for sight in sights])
    asked = (questions > 0) & limited[:, None]
    if not asked.any():
        return None
    rows, positions = asked.nonzero(as_tuple=True)
    slots = (asked.cumsum(1) - 1)[rows, positions]
    batch, length = questions.shape
    allowed = torch.zeros(batch, int(asked.sum(1).max()), 2 * length, dtype=torch.bool)
    same_turn = questions[rows] == questions[rows, positions][:, None]
    before = torch.arange(length) <= positions[:, None]
    allowed[rows, slots, :length] = same_turn & before
    allowed[rows, slots, length:] = with_partner[rows][:, None].expand(-1, length)
    # Unused slots must see something, or softmax is undefined; nobody reads their result.
    allowed[..., 0] |= ~allowed.any(-1)
    return QuestionView(rows, positions, slots, allowed[:, None])


def single(encoded: Encoded) -> Tensor:
    """A batch of one conversation, int64[1, length]."""
    return torch.from_numpy(encoded.ids)[None]
