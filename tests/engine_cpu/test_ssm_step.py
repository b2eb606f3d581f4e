import pytest
import torch

from engine.cpu.conv import PAD
from engine.cpu.ssm_step import selective_state_update

from .reference import path_to, random_tree, ssm_step

H, P, G, N, SLOTS = 4, 3, 2, 5, 8


@pytest.fixture(params=range(4))
def rng(request):
    return torch.Generator().manual_seed(request.param)


def inputs(rng, *batch):
    return {
        "x": torch.randn(*batch, H, P, generator=rng),
        "dt": torch.randn(*batch, H, generator=rng),
        "B": torch.randn(*batch, G, N, generator=rng),
        "C": torch.randn(*batch, G, N, generator=rng),
    }


def parameters(rng):
    return {
        "A": -torch.rand(H, generator=rng),
        "D": torch.randn(H, generator=rng),
        "bias": torch.randn(H, generator=rng),
    }


def update(state, now, fixed, **kwargs):
    """Call the kernel the way the mixer does, with parameters expanded over head_dim."""
    out = torch.full_like(now["x"], float("nan"))
    selective_state_update(
        state,
        now["x"],
        now["dt"][..., None].expand(*now["dt"].shape, P),
        fixed["A"][:, None, None].expand(H, P, N),
        now["B"],
        now["C"],
        fixed["D"][:, None].expand(H, P),
        dt_bias=fixed["bias"][:, None].expand(H, P),
        dt_softplus=True,
        out=out,
        **kwargs,
    )
    return out


def step(state, now, fixed, *at):
    token = (now["x"][at], now["dt"][at])
    rest = (fixed["A"], now["B"][at], now["C"][at], fixed["D"], fixed["bias"])
    return ssm_step(state, *token, *rest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_is_one_step_of_the_recurrence_and_skips_padding(rng, dtype):
    now, fixed = inputs(rng, 4), parameters(rng)
    state = torch.randn(SLOTS, H, P, N, generator=rng).to(dtype)
    before = state.clone()
    slots = torch.tensor([5, PAD, 0, 7], dtype=torch.int32)
    out = update(state, now, fixed, state_batch_indices=slots)
    for i, slot in enumerate(slots.tolist()):
        if slot != PAD:
            y, after = step(before[slot], now, fixed, i)
            torch.testing.assert_close(out[i].double(), y, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(state[slot], after.to(dtype))
    for slot in set(range(SLOTS)) - {5, 0, 7}:
        assert torch.equal(state[slot], before[slot])


@pytest.mark.parametrize("tree", [False, True])
def test_verify_leaves_the_live_state_and_keeps_one_per_draft_token(rng, tree):
    batch, steps = 3, 6
    now, fixed = inputs(rng, batch, steps), parameters(rng)
    state = torch.randn(SLOTS, H, P, N, generator=rng)
    before = state.clone()
    slots, rows = torch.tensor([4, 1, 6]), torch.tensor([2, 0, 1])
    buffer = torch.zeros(batch, steps, H, P, N)
    parents = [random_tree(steps, rng) for _ in range(batch)]
    if not tree:
        parents = [[0, *range(steps - 1)]] * batch
    out = update(
        state,
        now,
        fixed,
        state_batch_indices=slots,
        disable_state_update=True,
        intermediate_states_buffer=buffer,
        cache_steps=steps,
        retrieve_parent_token=torch.tensor(parents) if tree else None,
        intermediate_state_indices=rows,
    )
    assert torch.equal(state, before)
    for b in range(batch):
        for t in range(steps):
            after = before[slots[b]]
            for node in path_to(t, parents[b]):
                y, after = step(after, now, fixed, b, node)
            torch.testing.assert_close(out[b, t].double(), y, rtol=1e-5, atol=1e-5)
            expected = after.float()
            torch.testing.assert_close(buffer[rows[b], t], expected, rtol=1e-5, atol=1e-5)


def test_a_tree_continues_from_what_the_buffer_holds(rng):
    """As upstream does: a parent's state is read back from the buffer, rounding included."""
    now, fixed = inputs(rng, 1, 2), parameters(rng)
    state = torch.randn(1, H, P, N, generator=rng)
    buffer = torch.zeros(1, 2, H, P, N, dtype=torch.bfloat16)
    tree = torch.tensor([[0, 0]])
    kwargs = {"disable_state_update": True, "intermediate_states_buffer": buffer}
    out = update(state, now, fixed, retrieve_parent_token=tree, **kwargs)
    y, _ = step(buffer[0, 0], now, fixed, 0, 1)
    torch.testing.assert_close(out[0, 1].double(), y, rtol=1e-5, atol=1e-5)


def test_stochastic_rounding_is_refused(rng):
    now, fixed = inputs(rng, 1), parameters(rng)
    with pytest.raises(NotImplementedError, match="enable_stochastic_rounding"):
        update(torch.zeros(1, H, P, N), now, fixed, enable_stochastic_rounding=True)
