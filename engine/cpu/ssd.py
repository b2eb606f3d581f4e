"""Mamba-2's chunked scan (state-space duality) over a batch of sequences, in float32.

A sequence is cut on a grid, at its ends and wherever a state is wanted. All pieces are
padded to one length with dt = 0 (which neither decays nor feeds the state) and computed together;
only the short recurrence over piece states is a loop.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.patch import Kind, Patch

# Pieces computed together hold a [pieces, heads, length, length] float32 decay matrix: 4 MiB,
# about what a second-level cache holds.
_DECAY_ELEMENTS = 1 << 20
# Work within a piece grows with its length, the number of steps of the loop with its inverse.
_LONGEST_PIECE = 32


class ScanStates(NamedTuple):
    grid: Tensor
    """state_dtype[1, chunks, heads, head_dim, d_state]: the state entering each chunk of the grid
    that is laid over all tokens of the batch, whichever sequence is there."""
    final: Tensor
    """state_dtype[sequences, heads, head_dim, d_state]"""
    tracked: Tensor | None
    """state_dtype[1, tracked, heads, head_dim, d_state], or None if none was asked for."""


class _Piece(NamedTuple):
    """Tokens [start, end) of one sequence."""

    sequence: int
    start: int
    end: int


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    chunk_offsets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    out: Tensor | None = None,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    return_intermediate_states: bool = False,
    state_dtype: torch.dtype | None = None,
    return_track_states: bool = False,
    track_seq_idx: Tensor | None = None,
    track_end_locs: Tensor | None = None,
) -> ScanStates:
    """The one way SGLang's Mamba-2 mixer calls upstream's function of this name.

    Args:
        x: [1, tokens, heads, head_dim], sequences laid end to end. dt: [1, tokens, heads].
        A: [heads], negative. B, C: [1, tokens, groups, d_state]. D: [heads].
        chunk_size: tokens; the grid on which states are reported.
        initial_states: [sequences, heads, head_dim, d_state], zeros if None.
        cu_seqlens: int[sequences + 1].
        out: [1, tokens, heads, head_dim], written.
        track_seq_idx, track_end_locs: int[tracked]; besides the grid, report the state of that
            sequence after all tokens before that position of the batch.
        seq_idx, chunk_indices, chunk_offsets: upstream's own view of `cu_seqlens`; unused.
    """
    if not (return_varlen_states and return_track_states) or z is not None or x.shape[0] != 1:
        raise NotImplementedError("only the call made by SGLang's MambaMixer2 is supported")
    assert cu_seqlens is not None
    assert out is not None
    tokens, heads, head_dim = x.shape[1:]
    d_state = B.shape[-1]
    wanted: dict[tuple[int, int], list[int]] = {}
    if track_seq_idx is not None and track_end_locs is not None:
        places = zip(track_seq_idx.tolist(), track_end_locs.tolist(), strict=True)
        for row, place in enumerate(places):
            wanted.setdefault(place, []).append(row)

    shape = (heads, head_dim, d_state)
    dtype = state_dtype or x.dtype
    bounds: list[int] = cu_seqlens.tolist()
    states = ScanStates(
        grid=torch.zeros(1, -(-tokens // chunk_size), *shape, dtype=dtype),
        final=torch.empty(len(bounds) - 1, *shape, dtype=dtype),
        tracked=torch.empty(1, len(track_end_locs), *shape, dtype=dtype)
        if wanted and track_end_locs is not None
        else None,
    )
    step = _step_sizes(dt[0], dt_bias, dt_softplus, dt_limit)
    length = min(chunk_size, _LONGEST_PIECE)  # both powers of two: the grid is made of pieces
    pieces = _pieces(bounds, length, wanted)
    at_once = max(1, _DECAY_ELEMENTS // (heads * length**2))
    sequence, state = -1, torch.zeros(shape)
    for first in range(0, len(pieces), at_once):
        group = pieces[first : first + at_once]
        inner = _within_pieces(group, length, x[0], step, A, B[0], C[0])
        entering = torch.empty(len(group), *shape)
        for i, piece in enumerate(group):
            if piece.sequence != sequence:
                sequence = piece.sequence
                state = torch.zeros(shape)
                if initial_states is not None:
                    state = initial_states[sequence].float()
                _report(states, wanted, piece.sequence, piece.start, chunk_size, state)
            entering[i] = state
            state = torch.addcmul(inner.fed[i], state, inner.decay[i])
            _report(states, wanted, piece.sequence, piece.end, chunk_size, state)
            states.final[sequence] = state
        y = _add_entering(inner, entering)
        for i, piece in enumerate(group):
            rows = slice(piece.start, piece.end)
            piece_y = y[i, : piece.end - piece.start]
            if D is not None:
                piece_y = torch.addcmul(piece_y, x[0, rows].float(), D.float()[:, None])
            out[0, rows] = piece_y
    return states


def _step_sizes(
    dt: Tensor, bias: Tensor | None, softplus: bool, limit: tuple[float, float]
) -> Tensor:
    step = dt.float()
    if bias is not None:
        step = step + bias.float()
    if softplus:
        step = F.softplus(step)
    return step.clamp(*limit)


def _pieces(
    bounds: list[int], length: int, wanted: dict[tuple[int, int], list[int]]
) -> list[_Piece]:
    """Cut every sequence at multiples of `length` and at the wanted positions. An empty sequence
    is one empty piece, which passes its initial state through."""
    pieces = []
    for sequence, (low, high) in enumerate(pairwise(bounds)):
        grid = range(low - low % length + length, high, length)
        cuts = sorted({low, high, *grid, *(end for s, end in wanted if s == sequence)})
        spans = [*pairwise(cuts)] or [(low, high)]
        pieces += [_Piece(sequence, start, end) for start, end in spans]
    return pieces


class _Inner(NamedTuple):
    """What pieces do by themselves; float32. g: groups, r: heads per group, l: padded length."""

    y: Tensor
    """[pieces, g, r, l, head_dim], as if every piece began with a zero state."""
    fed: Tensor
    """[pieces, heads, head_dim, d_state], the state a piece leaves if it began with zeros."""
    decay: Tensor
    """[pieces, heads, 1, 1], what is left of the entering state at the end of the piece."""
    reach: Tensor
    """[pieces, g, r, l], what is left of it at each token."""
    C: Tensor
    """[pieces, g, l, d_state]"""


def _within_pieces(
    group: list[_Piece], length: int, x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> _Inner:
    heads, head_dim = x.shape[1:]
    groups, d_state = B.shape[1:]
    n, r = len(group), heads // groups
    starts = torch.tensor([piece.start for piece in group])
    ends = torch.tensor([piece.end for piece in group])
    rows = starts[:, None] + torch.arange(length)
    inside = rows < ends[:, None]
    rows = rows.clamp(max=len(x) - 1)

    step = step[rows] * inside[..., None]  # [n, l, heads]; 0 past the end of a piece
    log_decay = (step * A.float()).cumsum(1).transpose(1, 2)  # [n, heads, l]
    # decay[i, j] from token j to token i >= j
    decay = log_decay[..., :, None] - log_decay[..., None, :]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    decay = decay.masked_fill_(future, float("-inf")).exp_().view(n, groups, r, length, length)
    xs = (x[rows].float() * step[..., None]).view(n, length, groups, r, head_dim)
    xs = xs.permute(0, 2, 3, 1, 4)  # [n, g, r, l, head_dim]
    Bs = B[rows].float().transpose(1, 2)  # [n, g, l, d_state]
    Cs = C[rows].float().transpose(1, 2)
    scores = (Cs @ Bs.transpose(2, 3))[:, :, None]  # shared by the heads of a group
    y = decay.mul_(scores) @ xs
    left = (log_decay[..., -1:] - log_decay).exp().view(n, groups, r, length, 1)
    fed = (xs * left).transpose(3, 4).reshape(n, groups, r * head_dim, length) @ Bs
    return _Inner(
        y=y,
        fed=fed.view(n, heads, head_dim, d_state),
        decay=log_decay[..., -1].exp()[..., None, None],
        reach=log_decay.exp().view(n, groups, r, length),
        C=Cs,
    )


def _add_entering(inner: _Inner, entering: Tensor) -> Tensor:
    """Outputs of pieces that began with the states `entering`: float32[pieces, l, heads, p]."""
    n, groups, r, length, head_dim = inner.y.shape
    state = entering.view(n, groups, r * head_dim, -1)
    carried = (inner.C @ state.transpose(2, 3)).view(n, groups, length, r, head_dim)
    y = inner.y + carried.transpose(2, 3) * inner.reach[..., None]
    return y.permute(0, 3, 1, 2, 4).reshape(n, length, groups * r, head_dim)


def _report(
    states: ScanStates,
    wanted: dict[tuple[int, int], list[int]],
    sequence: int,
    position: int,
    chunk_size: int,
    state: Tensor,
) -> None:
    chunk, off_grid = divmod(position, chunk_size)
    if not off_grid and chunk < states.grid.shape[1]:
        states.grid[0, chunk] = state
    if states.tracked is not None:
        for row in wanted.get((sequence, position), ()):
            states.tracked[0, row] = state


_MIXER = "sglang.srt.layers.attention.mamba.mamba."
PATCHES = (
    Patch(
        _MIXER + "mamba_chunk_scan_combined",
        Kind.REPLACE,
        mamba_chunk_scan_combined,
        "a Triton kernel; the mixer has no other prefill path",
    ),
)
