from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cpu import ssd
from engine.cpu.ssd import mamba_chunk_scan_combined

from .reference import ssm_step

H, P, G, N = 4, 3, 2, 5


def scan(lengths, chunk, seed, *, initial=True, track=(), dtype=torch.float32):
    """Inputs, the kernel's results and its output for sequences of these lengths."""
    rng = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    inputs = {
        "x": torch.randn(tokens, H, P, generator=rng).to(dtype),
        "dt": torch.randn(tokens, H, generator=rng).to(dtype),
        "A": -torch.rand(H, generator=rng) * 4,
        "B": torch.randn(tokens, G, N, generator=rng).to(dtype),
        "C": torch.randn(tokens, G, N, generator=rng).to(dtype),
        "D": torch.randn(H, generator=rng),
        "bias": torch.randn(H, generator=rng),
        "initial": torch.randn(len(lengths), H, P, N, generator=rng) * initial,
    }
    out = torch.full((1, tokens, H, P), float("nan"), dtype=dtype)
    states = mamba_chunk_scan_combined(
        inputs["x"][None],
        inputs["dt"][None],
        inputs["A"],
        inputs["B"][None],
        inputs["C"][None],
        chunk,
        D=inputs["D"],
        dt_bias=inputs["bias"],
        initial_states=inputs["initial"] if initial else None,
        cu_seqlens=bounds,
        dt_softplus=True,
        out=out,
        return_varlen_states=True,
        return_track_states=True,
        state_dtype=torch.float32,
        track_seq_idx=torch.tensor([s for s, _ in track], dtype=torch.int64),
        track_end_locs=torch.tensor([int(bounds[s]) + n for s, n in track], dtype=torch.int64),
    )
    return inputs, bounds.tolist(), states, out[0]


def token_by_token(inputs, bounds):
    """Outputs, and the state before each token of each sequence (and after its last)."""
    ys, states = [], []
    for s, (low, high) in enumerate(pairwise(bounds)):
        state = inputs["initial"][s].double()
        seen = [state]
        for t in range(low, high):
            y, state = ssm_step(
                state,
                inputs["x"][t],
                inputs["dt"][t],
                inputs["A"],
                inputs["B"][t],
                inputs["C"][t],
                inputs["D"],
                inputs["bias"],
            )
            ys.append(y)
            seen.append(state)
        states.append(seen)
    return torch.stack(ys), states


def close(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=2e-5, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 21), min_size=1, max_size=4),
    chunk=st.sampled_from([2, 4, 8]),
    initial=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_batch_equals_the_recurrence(lengths, chunk, initial, seed, data):
    places = st.integers(0, len(lengths) - 1).flatmap(
        lambda s: st.tuples(st.just(s), st.integers(0, lengths[s]))
    )
    track = data.draw(st.lists(places, max_size=3))
    inputs, bounds, states, out = scan(lengths, chunk, seed, initial=initial, track=track)
    y, expected = token_by_token(inputs, bounds)
    close(out, y)
    for s in range(len(lengths)):
        close(states.final[s], expected[s][-1])
        for t in range(bounds[s], bounds[s + 1]):
            if t % chunk == 0:
                close(states.grid[0, t // chunk], expected[s][t - bounds[s]])
    assert (states.tracked is None) == (not track)
    for row, (s, n) in enumerate(track):
        close(states.tracked[0, row], expected[s][n])


def test_a_chunk_longer_than_a_piece_of_work_equals_the_recurrence():
    assert ssd._LONGEST_PIECE < 64
    inputs, bounds, states, out = scan([100, 50], 64, seed=11, track=[(1, 29)])
    y, expected = token_by_token(inputs, bounds)
    close(out, y)
    close(states.grid[0, 1], expected[0][64])
    close(states.grid[0, 2], expected[1][28])
    close(states.tracked[0, 0], expected[1][29])
    close(states.final[1], expected[1][-1])


def test_an_empty_sequence_keeps_its_state():
    inputs, _, states, _ = scan([5, 0, 3], 4, seed=1)
    assert torch.equal(states.final[1], inputs["initial"][1])


def test_many_pieces_in_bounded_memory_give_the_same(monkeypatch):
    _, _, whole, out = scan([50, 21], 4, seed=3)
    monkeypatch.setattr(ssd, "_DECAY_ELEMENTS", 3 * H * 4**2)
    _, _, parts, out_parts = scan([50, 21], 4, seed=3)
    torch.testing.assert_close(out, out_parts)
    torch.testing.assert_close(whole.final, parts.final)
    torch.testing.assert_close(whole.grid, parts.grid)


def test_continuing_from_a_grid_state_is_the_same_as_never_stopping():
    inputs, _, whole, out = scan([24], 8, seed=5)
    rest = torch.empty(1, 8, H, P)
    part = mamba_chunk_scan_combined(
        inputs["x"][None, 16:],
        inputs["dt"][None, 16:],
        inputs["A"],
        inputs["B"][None, 16:],
        inputs["C"][None, 16:],
        8,
        D=inputs["D"],
        dt_bias=inputs["bias"],
        initial_states=whole.grid[:, 2],
        cu_seqlens=torch.tensor([0, 8]),
        dt_softplus=True,
        out=rest,
        return_varlen_states=True,
        return_track_states=True,
        state_dtype=torch.float32,
    )
    torch.testing.assert_close(rest[0], out[16:], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(part.final, whole.final, rtol=1e-6, atol=1e-6)


def test_strong_decay_over_a_long_chunk_does_not_overflow():
    inputs, bounds, _, out = scan([64], 64, seed=7)
    inputs["A"] = torch.full((H,), -50.0)
    out = torch.empty(1, 64, H, P)
    mamba_chunk_scan_combined(
        inputs["x"][None],
        inputs["dt"][None] + 20,
        inputs["A"],
        inputs["B"][None],
        inputs["C"][None],
        64,
        D=inputs["D"],
        dt_bias=inputs["bias"],
        cu_seqlens=torch.tensor(bounds),
        dt_softplus=True,
        out=out,
        return_varlen_states=True,
        return_track_states=True,
    )
    assert out.isfinite().all()


def test_bfloat16_inputs_are_summed_in_float32():
    inputs, bounds, states, out = scan([40], 8, seed=9, dtype=torch.bfloat16)
    y, expected = token_by_token(inputs, bounds)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), y, rtol=1e-2, atol=1e-2)
    close(states.final[0], expected[0][-1])


def test_other_ways_to_call_it_are_refused():
    t = torch.zeros(1, 2, H, P)
    bc = torch.zeros(1, 2, G, N)
    with pytest.raises(NotImplementedError):
        mamba_chunk_scan_combined(t, t[..., 0], torch.zeros(H), bc, bc, 2, out=t)
