"""What an economy class costs: the demo model goes on from rounded state, and from exact state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agent_runtime.bench.demo_state import PAGE, Conversation, conversations, round_state
from engine.demo_model.oracle import Oracle, Reading
from state_store.encodings import ECONOMIES, Economy, Encoding
from state_store.layout import KINDS, Kind

_TOKENS, _AFTER, _CONVERSATIONS = 4096, 256, 3


def measure(oracle: Oracle) -> Iterator[dict[str, Any]]:
    """One record per class, and per habit: resumed once, or again after every page.

    Every conversation goes on with its own last tokens, the questions about what was told before
    the boundary and their right answers. `token_agreement` is the share of all those tokens
    after which the most likely next one is that of exact state, `answer_agreement` that share
    among the tokens of the answers; logit errors are against exact state.
    """
    told = [
        (conversation, oracle.start().read(conversation.ids[: conversation.boundary]))
        for conversation in conversations(
            oracle, tokens=_TOKENS, after=_AFTER, count=_CONVERSATIONS
        )
    ]
    exact = [logits_after(reading, c, None, every_page=False) for c, reading in told]
    scale = float(np.std(np.concatenate(exact)))
    for economy in ECONOMIES.values():
        for every_page in (False, True) if economy.lossy else (False,):
            rounded = [logits_after(r, c, economy, every_page=every_page) for c, r in told]
            yield {
                "measure": "loss",
                "economy": economy.name,
                "resumed": "at every page" if every_page else "once",
                **_differences(exact, rounded, [c for c, _ in told]),
                "logit_std": round(scale, 3),
            }


def logits_after(
    told: Reading, conversation: Conversation, economy: Economy | None, *, every_page: bool
) -> np.ndarray:
    """float32[tokens after the boundary, vocabulary]; with the state rounded at the boundary."""
    encodings: dict[Kind, Encoding] = (
        {kind: economy.encoding(kind) for kind in KINDS} if economy else {}
    )
    reading, logits = told.fork(), []
    for token in conversation.ids[conversation.boundary :]:
        first = reading.tokens == conversation.boundary
        if encodings and (first or (every_page and reading.tokens % PAGE == 0)):
            round_state(reading, encodings)
        logits.append(reading.read([token]).logits.numpy())
    return np.stack(logits)


def _differences(
    exact: Sequence[np.ndarray], rounded: Sequence[np.ndarray], told: Sequence[Conversation]
) -> dict[str, Any]:
    one, other = np.concatenate(exact), np.concatenate(rounded)
    errors = np.abs(one - other)
    agree = one.argmax(axis=1) == other.argmax(axis=1)
    # The logits after a token are about the next one; nothing follows the last.
    answers = np.concatenate([[*c.is_answer[c.boundary + 1 :], False] for c in told])
    return {
        "tokens": len(agree),
        "token_agreement": round(float(agree.mean()), 4),
        "answer_tokens": int(answers.sum()),
        "answer_agreement": round(float(agree[answers].mean()), 4),
        "max_logit_error": round(float(errors.max()), 4),
        "mean_logit_error": round(float(errors.mean()), 5),
    }
