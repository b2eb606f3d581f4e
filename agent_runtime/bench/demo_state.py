"""State of the demo model in the middle of conversations, as the payloads that a store holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from engine.demo_model import filler
from engine.demo_model.conversations import Encoded, Writer
from engine.demo_model.oracle import Oracle, Reading
from state_store.encodings import Encoded as Stored
from state_store.encodings import Encoding, PayloadLayout, Segment, decode, encode
from state_store.layout import Kind

PAGE = 64  # tokens
Floats = NDArray[np.float32]


class Conversation(NamedTuple):
    """ids, is_answer: of its tokens; boundary: tokens before the last questions, whole pages."""

    ids: list[int]
    is_answer: list[bool]
    boundary: int


def conversations(oracle: Oracle, *, tokens: int, after: int, count: int) -> Iterator[Conversation]:
    """Held-out dialogues that end with questions about all that was told in them.

    after: tokens, about, from the boundary to the end.
    """
    writer = Writer(filler.load_library("held_out"), oracle.tokenizer, seed=11)
    for _ in range(count):
        turns = writer.dialogue(tokens - len(writer.system_block), longest_text=tokens)
        parts: list[Encoded] = [writer.system_block, *(turn.encoded for turn in turns)]
        ids = np.concatenate([part.ids for part in parts])
        roles = np.concatenate([part.roles for part in parts])
        boundary = (len(ids) - after) // PAGE * PAGE
        yield Conversation(ids.tolist(), (roles > 0).tolist(), boundary)


class Payloads(NamedTuple):
    """Payloads of one kind. rows: float32[payloads, numbers], a copy"""

    layout: PayloadLayout
    rows: Floats


def pages_of(reading: Reading) -> Payloads:
    """All whole pages, with the tensors in the order of `engine/linker/pools.py`."""
    return _payloads(
        [
            tensor[0].transpose(0, 1)[: _whole(reading)].reshape(-1, PAGE * _row(tensor))
            for tensor in reading.keys_and_values()
        ]
    )


def state_of(reading: Reading) -> Payloads:
    """The one state, likewise."""
    return _payloads([tensor.reshape(1, -1) for tensor in _states(reading)])


def round_state(reading: Reading, encodings: dict[Kind, Encoding]) -> None:
    """Replace a reading's whole pages and state by what the store would give back."""
    pages, state = pages_of(reading), state_of(reading)
    for payloads, encoding in ((pages, encodings["kv"]), (state, encodings["state"])):
        for row in payloads.rows:
            there_and_back(row, payloads.layout, encoding)
    at = 0
    for tensor in reading.keys_and_values():
        numbers = PAGE * _row(tensor)
        tokens = pages.rows[:, at : at + numbers].reshape(-1, tensor.shape[1], tensor.shape[3])
        tensor[0, :, : len(tokens)] = torch.from_numpy(tokens).transpose(0, 1)
        at += numbers
    at = 0
    for tensor in _states(reading):
        numbers = tensor.numel()
        tensor.copy_(torch.from_numpy(state.rows[0, at : at + numbers]).view_as(tensor))
        at += numbers


def there_and_back(
    payload: NDArray[np.generic], layout: PayloadLayout, encoding: Encoding
) -> Stored:
    """Encode and decode one payload of one part in place."""
    (segments,) = layout.parts
    frame = payload.view(np.uint8).data
    stored = encode(frame, segments, encoding, frame)
    decode(frame[: stored.stored_bytes], segments, stored.encoding, frame)
    return stored


def load(folder: Path) -> Oracle:
    """The demo model, computing in one thread: it is too small for more."""
    torch.set_num_threads(1)
    return Oracle(folder)


def _states(reading: Reading) -> Iterator[torch.Tensor]:
    """SSM, then convolution, of each layer. The oracle's has one column more than SGLang's."""
    tensors = iter(reading.states())
    for convolution, recurrent in zip(tensors, tensors, strict=True):
        yield recurrent
        yield convolution


def _row(tensor: torch.Tensor) -> int:
    """Numbers per token."""
    return tensor.shape[1] * tensor.shape[3]


def _whole(reading: Reading) -> int:
    """Tokens in whole pages."""
    return reading.tokens // PAGE * PAGE


def _payloads(tensors: list[torch.Tensor]) -> Payloads:
    segments = tuple(Segment("float32", 4 * tensor.shape[1]) for tensor in tensors)
    return Payloads(PayloadLayout(segments), torch.cat(tensors, dim=1).numpy())
