"""How often the multi-token-prediction layers guess what the model itself says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from engine.demo_model.conversations import Encoded
from engine.demo_model.export import load_network

_DRAFTS = 3


def measure(folder: Path, dialogues: Sequence[Encoded]) -> dict[str, float]:
    """Agreement of chained drafts with the model's own greedy choice, over all answer tokens.

    `agreement k`: the k-th draft is the model's choice. `acceptance length`: expected tokens per
    verification with three drafts, if one started at every answer token. The drafts attend to
    earlier drafts of the same place in the chain; a server's drafts attend to the real states.
    """
    network = load_network(folder)
    hits = torch.zeros(_DRAFTS)
    accepted = torch.zeros(())
    places = 0
    for encoded in dialogues:
        size = network.shape.chunk_size
        ids = F.pad(torch.from_numpy(encoded.ids), (0, -len(encoded) % size))[None]
        with torch.no_grad():
            hidden = network.hidden(ids)
            chosen = network.lm_head(hidden).argmax(-1)[0]
            # Position t: the model has the tokens up to t and has just chosen token t + 1.
            last = len(encoded) - _DRAFTS - 1
            starts = torch.from_numpy(encoded.roles > 0)[1 : last + 1]
            agreed = []
            for ahead in range(1, _DRAFTS + 1):
                hidden = network.draft_hidden(ids, hidden, ahead)
                drafted = network.lm_head(hidden).argmax(-1)[0]
                agreed.append((drafted[:last] == chosen[ahead : last + ahead])[starts].float())
        together = torch.stack(agreed)
        hits += together.sum(1)
        accepted += together.cumprod(0).sum()
        places += int(starts.sum())
    scores = {f"agreement {k + 1}": round(float(hits[k]) / places, 4) for k in range(_DRAFTS)}
    return scores | {"acceptance length": round(1 + float(accepted) / places, 3), "tokens": places}
