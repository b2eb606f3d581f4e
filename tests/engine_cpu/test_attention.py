import pytest
import torch

from engine.cpu import attention
from engine.cpu.attention import (
    build_draft_decode_metadata_cpu,
    decode_attention_cpu,
    extend_attention_cpu,
)

from .reference import attend, path_to, random_tree

HEADS, KV_HEADS, D, SLOTS, SCALE = 4, 2, 8, 400, 0.3


class Cache:
    """A paged KV cache holding requests of the given lengths, in scattered or consecutive slots."""

    def __init__(self, lengths, seed, *, consecutive=False, dtype=torch.float32):
        self.rng = torch.Generator().manual_seed(seed)
        self.k = torch.randn(SLOTS, KV_HEADS, D, generator=self.rng).to(dtype)
        self.v = torch.randn(SLOTS, KV_HEADS, D, generator=self.rng).to(dtype)
        free = torch.randperm(SLOTS, generator=self.rng)
        if consecutive:
            free = torch.arange(SLOTS)
        self.table = torch.zeros(len(lengths) + 1, max(lengths) + 8, dtype=torch.int32)
        self.rows = torch.randperm(len(lengths) + 1, generator=self.rng)[: len(lengths)]
        for row, length in zip(self.rows, lengths, strict=True):
            self.table[row, : length + 8], free = free[: length + 8].int(), free[length + 8 :]
        self.lengths = torch.tensor(lengths)

    def of(self, i):
        slots = self.table[self.rows[i], : self.lengths[i]].long()
        return self.k[slots], self.v[slots]

    def queries(self, tokens):
        return torch.randn(tokens, HEADS, D, generator=self.rng).to(self.k.dtype)


def decode(cache, q, key=None, value=None, loc=None, window=0):
    out = torch.full_like(q, float("nan"))
    head = (q, cache.k, cache.v, 1.0, 1.0, out, key, value, loc, None, cache.table, cache.rows)
    decode_attention_cpu(*head, cache.lengths, SCALE, 0.0, False, window, None, None)
    return out


def extend(cache, q, new, tree_mask=None, **changes):
    out = torch.full_like(q, float("nan"))
    starts = torch.tensor([0, *new]).cumsum(0)[:-1]
    args = {
        "q": q,
        "k": None,
        "v": None,
        "out": out,
        "k_cache": cache.k,
        "v_cache": cache.v,
        "k_scale": 1.0,
        "v_scale": 1.0,
        "req_to_token": cache.table,
        "req_pool_indices": cache.rows,
        "seq_lens": cache.lengths,
        "extend_seq_lens": torch.tensor(new),
        "extend_start_loc": starts,
        "max_extend_len": max(new),
        "scale": SCALE,
        "logit_cap": 0.0,
        "is_cross_attn": False,
        "sliding_window": 0,
        "encoder_lens": None,
        "sinks": None,
        "tree_mask": tree_mask,
        "is_causal": True,
    }
    extend_attention_cpu(**{**args, **changes})
    return out


@pytest.mark.parametrize("consecutive", [False, True])
def test_decode_sees_every_cached_token_and_no_other(consecutive):
    cache = Cache([1, 33, 100], seed=0, consecutive=consecutive)
    q = cache.queries(3)
    out = decode(cache, q)
    for i, length in enumerate(cache.lengths.tolist()):
        expected = attend(q[i : i + 1], *cache.of(i), SCALE, torch.ones(1, length).bool())
        torch.testing.assert_close(out[i : i + 1].double(), expected, rtol=1e-5, atol=1e-5)


def test_decode_stores_the_new_token_before_it_looks():
    cache = Cache([5, 9], seed=1)
    loc = torch.stack([cache.table[row, n - 1] for row, n in zip(cache.rows, [5, 9], strict=True)])
    key, value = torch.randn(2, KV_HEADS * D), torch.randn(2, KV_HEADS, D)
    q = cache.queries(2)
    out = decode(cache, q, key, value, loc.long())
    assert torch.equal(cache.k[loc.long()].flatten(1), key)
    assert torch.equal(cache.v[loc.long()], value)
    for i, length in enumerate([5, 9]):
        expected = attend(q[i : i + 1], *cache.of(i), SCALE, torch.ones(1, length).bool())
        torch.testing.assert_close(out[i : i + 1].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("lengths", "new"), [([7], [7]), ([70, 20, 9], [30, 20, 0]), ([90], [1]), ([64, 65], [2, 64])]
)
def test_prefill_is_causal_over_the_prefix_and_the_new_tokens(lengths, new, seed):
    cache = Cache(lengths, seed, consecutive=seed == 2)
    q = cache.queries(sum(new))
    out = extend(cache, q, new)
    start = 0
    for i, (length, n) in enumerate(zip(lengths, new, strict=True)):
        if n:
            seen = torch.arange(length) <= torch.arange(length - n, length)[:, None]
            mine = slice(start, start + n)
            expected = attend(q[mine], *cache.of(i), SCALE, seen)
            torch.testing.assert_close(out[mine].double(), expected, rtol=1e-5, atol=1e-5)
        start += n


@pytest.mark.parametrize("window", [1, 7, 64, 500])
def test_a_sliding_window_ends_with_the_token_itself(window, monkeypatch):
    monkeypatch.setattr(attention, "_WINDOW_BLOCK", 16)
    lengths, new = [70, 20, 90], [30, 20, 1]
    cache = Cache(lengths, seed=5)
    q = cache.queries(sum(new))
    out = extend(cache, q, new, sliding_window=window)
    last = decode(cache, q[torch.tensor(new).cumsum(0) - 1], window=window)
    start = 0
    for i, (length, n) in enumerate(zip(lengths, new, strict=True)):
        ends, others = torch.arange(length - n, length)[:, None], torch.arange(length)
        seen = (others <= ends) & (others > ends - window)
        mine = slice(start, start + n)
        expected = attend(q[mine], *cache.of(i), SCALE, seen)
        torch.testing.assert_close(out[mine].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(last[i].double(), expected[-1], rtol=1e-5, atol=1e-5)
        start += n


@pytest.mark.parametrize("seed", range(4))
def test_verify_lets_a_draft_token_see_its_ancestors_only(seed):
    nodes, lengths = 6, [26, 7]
    cache = Cache(lengths, seed)
    trees = [random_tree(nodes, cache.rng) for _ in lengths]
    masks = torch.zeros(2, nodes, nodes, dtype=torch.bool)
    for b, parents in enumerate(trees):
        for node in range(nodes):
            masks[b, node, path_to(node, parents)] = True
    q = cache.queries(2 * nodes)
    out = extend(cache, q, [nodes, nodes], tree_mask=masks.flatten())
    for i, length in enumerate(lengths):
        seen = torch.cat([torch.ones(nodes, length - nodes).bool(), masks[i]], dim=1)
        mine = slice(i * nodes, (i + 1) * nodes)
        expected = attend(q[mine], *cache.of(i), SCALE, seen)
        torch.testing.assert_close(out[mine].double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_prefill_with_a_prefix_stays_close():
    cache = Cache([80], seed=4, dtype=torch.bfloat16)
    q = cache.queries(30)
    seen = torch.arange(80) <= torch.arange(50, 80)[:, None]
    expected = attend(q, *cache.of(0), SCALE, seen)
    torch.testing.assert_close(extend(cache, q, [30]).double(), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    "change",
    [
        {"logit_cap": 30.0},
        {"sinks": torch.zeros(HEADS)},
        {"k_scale": 0.5},
        {"is_causal": False},
        {"sliding_window": 8, "tree_mask": torch.ones(16).bool()},
    ],
)
def test_what_is_not_implemented_is_refused(change):
    cache = Cache([4], seed=0)
    with pytest.raises(NotImplementedError):
        extend(cache, cache.queries(4), [4], **change)


def test_each_draft_branch_reads_the_prefix_and_its_own_slots():
    table = torch.arange(60, dtype=torch.int32).view(3, 20)
    rows, lengths, topk, steps = torch.tensor([2, 0]), torch.tensor([5, 9]), 2, 3
    draft = build_draft_decode_metadata_cpu(table, rows, lengths, topk, steps, 20)
    assert draft.shape == (4, 20)
    for b, (row, n) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
        for branch in range(topk):
            mine = draft[b * topk + branch]
            assert torch.equal(mine[:n], table[row, :n])
            start = n + branch * steps
            assert torch.equal(mine[n : n + steps], table[row, start : start + steps])
    assert torch.equal(table, torch.arange(60, dtype=torch.int32).view(3, 20))


def test_slots_that_only_begin_and_end_like_a_run_are_not_taken_for_one():
    cache = Cache([40], seed=6, consecutive=True)
    row = cache.table[cache.rows[0]]
    q = cache.queries(1)
    row[8:24] = 300
    expected = attend(q, *cache.of(0), SCALE, torch.ones(1, 40).bool())
    torch.testing.assert_close(decode(cache, q).double(), expected, rtol=1e-5, atol=1e-5)


def test_long_contexts_are_attended_to_in_blocks(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 16)
    cache = Cache([100], seed=7)
    q = cache.queries(20)
    seen = torch.arange(100) <= torch.arange(80, 100)[:, None]
    expected = attend(q, *cache.of(0), SCALE, seen)
    torch.testing.assert_close(extend(cache, q, [20]).double(), expected, rtol=1e-5, atol=1e-5)
    expected = attend(q[:1], *cache.of(0), SCALE, torch.ones(1, 100).bool())
    torch.testing.assert_close(decode(cache, q[:1]).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("new", [[1], [20]])
def test_results_do_not_depend_on_slots_to_the_bit(monkeypatch, new):
    """A session restored into other slots goes on exactly as it would have."""
    monkeypatch.setattr(attention, "_BLOCK", 16)
    scattered, consecutive = (Cache([100], seed=8, consecutive=run) for run in (False, True))
    consecutive.k[consecutive.table[consecutive.rows[0], :100].long()] = scattered.of(0)[0]
    consecutive.v[consecutive.table[consecutive.rows[0], :100].long()] = scattered.of(0)[1]
    q = scattered.queries(new[0])
    assert torch.equal(extend(scattered, q, new), extend(consecutive, q, new))
    assert torch.equal(decode(scattered, q[:1]), decode(consecutive, q[:1]))
