import pytest
import torch

from engine.cpu.conv import PAD, causal_conv1d_fn, causal_conv1d_update, tree_parents

from .reference import conv_step, links, path_to, random_tree

DIM, WIDTH, SLOTS = 10, 4, 9


@pytest.fixture(params=range(5))
def rng(request):
    return torch.Generator().manual_seed(request.param)


@pytest.fixture
def weights(rng):
    return torch.randn(DIM, WIDTH, generator=rng), torch.randn(DIM, generator=rng)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_prefill_of_a_mixed_batch_equals_token_by_token(rng, weights, state_dtype):
    lengths = [7, 1, 2, 30, 3]
    x = torch.randn(sum(lengths), DIM, generator=rng).t()
    states = torch.randn(SLOTS, DIM, WIDTH - 1, generator=rng).to(state_dtype)
    before = states.clone()
    slots = torch.tensor([3, 0, PAD, 8, 5], dtype=torch.int32)
    resumed = torch.tensor([True, False, True, False, True])
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    y = causal_conv1d_fn(x, *weights, states, starts, lengths, slots, resumed)
    assert y.shape == x.shape

    touched = set()
    for i, slot in enumerate(slots.tolist()):
        if slot == PAD:
            continue
        touched.add(slot)
        history = before[slot] if resumed[i] else torch.zeros(DIM, WIDTH - 1)
        for t in range(int(starts[i]), int(starts[i + 1])):
            expected, history = conv_step(history, x[:, t], *weights)
            torch.testing.assert_close(y[:, t].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(states[slot], history.to(state_dtype))
    for slot in set(range(SLOTS)) - touched:
        assert torch.equal(states[slot], before[slot])


def test_a_split_prefill_leaves_bit_for_bit_the_state_of_a_whole_one(rng, weights):
    x = torch.randn(40, DIM, generator=rng).t()
    whole, parts = torch.zeros(1, DIM, WIDTH - 1), torch.zeros(1, DIM, WIDTH - 1)
    slot = torch.tensor([0])
    y = causal_conv1d_fn(x, *weights, whole, torch.tensor([0, 40]), [40], slot)
    split = []
    for start, end in ((0, 2), (2, 19), (19, 40)):
        n = end - start
        seen = torch.tensor([start > 0])
        args = (parts, torch.tensor([0, n]), [n], slot, seen)
        split.append(causal_conv1d_fn(x[:, start:end], *weights, *args))
    torch.testing.assert_close(torch.cat(split, dim=1), y)
    assert torch.equal(whole, parts)


def test_decode_equals_one_reference_step_and_skips_padding(rng, weights):
    x = torch.randn(4, DIM, generator=rng)
    states = torch.randn(SLOTS, DIM, WIDTH - 1, generator=rng)
    before = states.clone()
    slots = torch.tensor([7, PAD, 2, 0], dtype=torch.int32)
    y = causal_conv1d_update(x, states, *weights, "silu", conv_state_indices=slots)
    for i, slot in enumerate(slots.tolist()):
        if slot != PAD:
            expected, history = conv_step(before[slot], x[i], *weights)
            torch.testing.assert_close(y[i].double(), expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(states[slot], history.float())
    for slot in set(range(SLOTS)) - {7, 2, 0}:
        assert torch.equal(states[slot], before[slot])


@pytest.mark.parametrize("tree", [False, True])
def test_verify_keeps_the_state_after_each_draft_token(rng, weights, tree):
    batch, steps = 3, 6
    x = torch.randn(batch, DIM, steps, generator=rng)
    states = torch.randn(SLOTS, DIM, WIDTH - 1, generator=rng)
    before = states.clone()
    slots, rows = torch.tensor([4, 1, 6]), torch.tensor([2, 0, 1])
    windows = torch.zeros(batch, steps, DIM, WIDTH - 1)
    chain = list(range(-1, steps - 1))
    parents = [random_tree(steps, rng) if tree else [0, *chain[1:]] for _ in range(batch)]
    kwargs = {}
    if tree:
        linked = [links(p) for p in parents]
        kwargs = {
            "retrieve_next_token": torch.tensor([first for first, _ in linked]),
            "retrieve_next_sibling": torch.tensor([following for _, following in linked]),
            "retrieve_parent_token": torch.full((batch, steps), 99),
        }
    y = causal_conv1d_update(
        x,
        states,
        *weights,
        "silu",
        conv_state_indices=slots,
        intermediate_conv_window=windows,
        intermediate_state_indices=rows,
        **kwargs,
    )
    if tree:
        assert kwargs["retrieve_parent_token"].tolist() == parents
    for b in range(batch):
        for t in range(steps):
            history = before[slots[b]]
            for node in path_to(t, parents[b]):
                expected, history = conv_step(history, x[b, :, node], *weights)
            torch.testing.assert_close(y[b, :, t].double(), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(windows[rows[b], t].double(), history)


def test_tree_parents_inverts_first_child_and_sibling_links(rng):
    trees = [random_tree(8, rng) for _ in range(4)]
    linked = [links(parents) for parents in trees]
    first = torch.tensor([first for first, _ in linked])
    following = torch.tensor([following for _, following in linked])
    assert tree_parents(first, following).tolist() == trees
