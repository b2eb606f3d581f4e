"""Trees are drafted here as EAGLE does, from the definition of its candidate lists, and checked
against plain parent lists."""

import pytest
import torch

from engine.cpu.tree import build_tree_kernel_efficient_cpu, verify_tree_greedy_cpu

from .reference import links, path_to

TOPK, DEPTH = 3, 4


def draft(nodes, rng):
    """One drafted tree: selected candidates, the candidate each group hangs under, and parents.

    Step 0 drafts candidates 0..TOPK-1 from the root (group 0). Each later step picks TOPK earlier
    candidates and drafts TOPK below each of them. The kept set is closed under parents.
    """
    under, above = [-1], {}
    frontier = list(range(TOPK))
    for step in range(1, DEPTH):
        drafted = []
        for candidate in frontier:
            group = len(under)
            under.append(candidate)
            drafted += [group * TOPK + i for i in range(TOPK)]
            for child in drafted[-TOPK:]:
                above[child] = candidate
        picks = torch.randperm(len(drafted), generator=rng)[:TOPK].tolist()
        frontier = sorted(drafted[i] for i in picks)
        assert step < DEPTH
    selected = set()
    everything = [*range(TOPK), *above]
    while len(selected) < nodes - 1:
        candidate = everything[int(torch.randint(len(everything), (1,), generator=rng))]
        if candidate < TOPK or above[candidate] in selected:
            selected.add(candidate)
    kept = sorted(selected)
    parents = [0] + [0 if c < TOPK else kept.index(above[c]) + 1 for c in kept]
    return kept, under, parents


def build(batch, nodes, lengths, mode, rng):
    drafts = [draft(nodes, rng) for _ in range(batch)]
    size = batch * nodes * nodes + (sum(lengths) * nodes if mode == 0 else 0)
    result = {
        "mask": torch.ones(size, dtype=torch.bool),
        "positions": torch.empty(batch * nodes, dtype=torch.int64),
        "index": torch.full((batch, nodes), -1),
        "child": torch.full((batch, nodes), -1),
        "sibling": torch.full((batch, nodes), -1),
    }
    build_tree_kernel_efficient_cpu(
        torch.tensor([under for _, under, _ in drafts]),
        torch.tensor([kept for kept, _, _ in drafts]),
        torch.tensor(lengths),
        *result.values(),
        TOPK,
        DEPTH,
        nodes,
        mode,
    )
    return [parents for _, _, parents in drafts], result


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_a_built_tree_says_who_descends_from_whom(seed, mode):
    rng = torch.Generator().manual_seed(seed)
    nodes, lengths = 7, [5, 11]
    trees, built = build(2, nodes, lengths, mode, rng)
    assert built["index"].tolist() == [list(range(nodes)), list(range(nodes, 2 * nodes))]
    offset = 0
    for b, parents in enumerate(trees):
        first, following = links(parents)
        assert built["child"][b].tolist() == first
        assert built["sibling"][b].tolist() == following
        before = lengths[b] if mode == 0 else 0
        width = before + nodes
        mask = built["mask"][offset : offset + nodes * width].view(nodes, width)
        offset += nodes * width
        assert mask[:, :before].all()
        for node in range(nodes):
            path = path_to(node, parents)
            assert mask[node, before:].nonzero().flatten().tolist() == sorted(path)
            assert built["positions"][b * nodes + node] == lengths[b] + len(path) - 1
    assert offset == len(built["mask"])


def test_a_bit_packed_mask_is_refused():
    with pytest.raises(NotImplementedError):
        build(1, 4, [3], 2, torch.Generator().manual_seed(0))


def greedy_walk(parents, tokens, target, depth):
    path = [0]
    while len(path) < depth:
        children = [n for n in range(1, len(parents)) if parents[n] == path[-1]]
        matching = [n for n in children if tokens[n] == target[path[-1]]]
        if not matching:
            break
        path.append(matching[0])
    return path


@pytest.mark.parametrize("seed", range(20))
def test_verification_follows_the_targets_choice_down_the_tree(seed):
    rng = torch.Generator().manual_seed(seed)
    nodes, batch, depth = 7, 3, DEPTH + 1
    trees, built = build(batch, nodes, [4, 4, 4], 1, rng)
    # Four token values: matches are frequent, and siblings may even repeat a token.
    tokens = torch.randint(4, (batch, nodes), generator=rng)
    target = torch.randint(4, (batch, nodes), generator=rng)
    predicts = torch.full((batch * nodes,), -7)
    accepted = torch.full((batch, depth), -1)
    counts = torch.empty(batch, dtype=torch.int64)
    verify_tree_greedy_cpu(
        predicts,
        accepted,
        counts,
        candidates=tokens,
        retrive_index=built["index"],
        retrive_next_token=built["child"],
        retrive_next_sibling=built["sibling"],
        target_predict=target,
    )
    for b, parents in enumerate(trees):
        path = greedy_walk(parents, tokens[b].tolist(), target[b].tolist(), depth)
        assert counts[b] == len(path) - 1
        rows = [b * nodes + node for node in path]
        assert accepted[b].tolist() == rows + [-1] * (depth - len(rows))
        mine = predicts[b * nodes : (b + 1) * nodes]
        for node in range(nodes):
            assert mine[node] == (target[b, node] if node in path else -7)
