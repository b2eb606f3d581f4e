"""Draft trees: building one from the draft model's choices, and greedy verification.

Node 0 of a tree is the last committed token; nodes 1.. are drafted. A tree is linked by first
child (`retrive_next_token`) and next sibling (`retrive_next_sibling`), -1 for none, within one
request; `retrive_index` maps a node to its row in the flattened batch. (Upstream's spelling.)
"""

from __future__ import annotations

from torch import Tensor

_FULL_MASK, _QLEN_ONLY = 0, 1  # upstream's TreeMaskMode


def build_tree_kernel_efficient_cpu(
    parent_list: Tensor,
    selected_index: Tensor,
    verified_seq_len: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int,
) -> None:
    """Args:
    parent_list: int[batch, ...]; entry p is the candidate under which candidates
        [p * topk, (p + 1) * topk) were drafted; entry 0 stands for the root.
    selected_index: int[batch, draft_token_num - 1], the candidates kept as nodes 1...
    verified_seq_len: int[batch], committed tokens before node 0.
    tree_mask: bool, written: who sees whom among the nodes ([n, n] per request, QLEN_ONLY), or
        the same with the committed tokens' columns before (FULL_MASK).
    positions: int[batch * draft_token_num], written.
    retrive_*: int[batch, draft_token_num], written; the links come filled with -1.

    Raises:
        NotImplementedError: a bit-packed mask is asked for.
    """
    mode = int(tree_mask_mode)
    if mode not in (_FULL_MASK, _QLEN_ONLY):
        raise NotImplementedError(f"tree mask mode {mode}")
    n, batch = draft_token_num, len(verified_seq_len)
    selected = selected_index.reshape(batch, -1).tolist()
    parents = parent_list.reshape(batch, -1).tolist()
    mask = tree_mask.view(-1)
    block = 0
    for b, length in enumerate(verified_seq_len.tolist()):
        before = length if mode == _FULL_MASK else 0
        parent = [0] + [_parent(selected[b], parents[b], node, topk) for node in range(1, n)]
        for node in range(n):
            row = block + node * (before + n) + before
            mask[row : row + n] = False
            level, seen = 0, node
            while seen > 0:
                mask[row + seen] = True
                level, seen = level + 1, parent[seen]
            mask[row] = True
            positions[b * n + node] = length + level
            retrive_index[b, node] = b * n + node
        block += n * (before + n)
        # From the last node to the first: siblings end up in ascending order.
        first_child, next_sibling = [-1] * n, [-1] * n
        for node in range(n - 1, 0, -1):
            next_sibling[node] = first_child[parent[node]]
            first_child[parent[node]] = node
        for node in range(n):
            retrive_next_token[b, node] = first_child[node]
            retrive_next_sibling[b, node] = next_sibling[node]


def _parent(selected: list[int], parents: list[int], node: int, topk: int) -> int:
    group = selected[node - 1] // topk
    return 0 if group == 0 else selected.index(parents[group]) + 1


def verify_tree_greedy_cpu(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Walk down each tree as long as a child is what the target model would say.

    Args:
        predicts: int[batch * nodes], written at accepted rows: the target's token there.
        accept_index: int[batch, depth], comes filled with -1; rows of node 0 and of the accepted
            nodes are written.
        accept_token_num: int[batch], written: accepted drafted tokens.
        candidates: int[batch, nodes], the token of each node.
        target_predict: int[batch * nodes] (any shape), the target's choice after each row.
    """
    target = target_predict.flatten().tolist()
    depth = accept_index.shape[1]
    trees = zip(
        candidates.tolist(),
        retrive_index.tolist(),
        retrive_next_token.tolist(),
        retrive_next_sibling.tolist(),
        strict=True,
    )
    for b, (tokens, rows, first_child, next_sibling) in enumerate(trees):
        path = [0]
        while len(path) < depth:
            wanted = target[rows[path[-1]]]
            node = first_child[path[-1]]
            while node != -1 and tokens[node] != wanted:
                node = next_sibling[node]
            if node == -1:
                break
            path.append(node)
        for place, node in enumerate(path):
            accept_index[b, place] = rows[node]
            predicts[rows[node]] = target[rows[node]]
        accept_token_num[b] = len(path) - 1
