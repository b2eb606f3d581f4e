"""Naive float64 versions of what the kernels compute, one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def conv_step(history: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One token of a conv with SiLU. history [dim, width - 1], x [dim] -> y [dim], history."""
    window = torch.cat([history.double(), x.double()[:, None]], dim=1)
    y = (window * weight.double()).sum(1) + bias.double()
    return y * torch.sigmoid(y), window[:, 1:]


def ssm_step(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """One token. state [h, p, n], x [h, p], dt [h], A [h], B and C [g, n], D [h] -> y, state."""
    step = torch.log1p(torch.exp(dt.double() + bias.double()))
    y = torch.empty(x.shape, dtype=torch.float64)
    after = torch.empty(state.shape, dtype=torch.float64)
    for head in range(len(x)):
        group = head * len(B) // len(x)
        decay = torch.exp(step[head] * A[head].double())
        fed = step[head] * torch.outer(x[head].double(), B[group].double())
        after[head] = decay * state[head].double() + fed
        y[head] = after[head] @ C[group].double() + D[head].double() * x[head].double()
    return y, after


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor) -> Tensor:
    """q [m, heads, d]; k, v [n, kv_heads, d]; seen bool[m, n] -> [m, heads, d]."""
    y = torch.empty(q.shape, dtype=torch.float64)
    for head in range(q.shape[1]):
        kv = head * k.shape[1] // q.shape[1]
        scores = q[:, head].double() @ k[:, kv].double().t() * scale
        y[:, head] = scores.masked_fill(~seen, float("-inf")).softmax(1) @ v[:, kv].double()
    return y


def random_tree(nodes: int, generator: torch.Generator) -> list[int]:
    """Parent of each node; node 0 is the root, and parents come before children."""
    return [0] + [int(torch.randint(node, (1,), generator=generator)) for node in range(1, nodes)]


def links(parents: list[int]) -> tuple[list[int], list[int]]:
    """First-child and next-sibling links, siblings in ascending order, -1 for none."""
    first, following = [-1] * len(parents), [-1] * len(parents)
    for node in range(len(parents) - 1, 0, -1):
        following[node] = first[parents[node]]
        first[parents[node]] = node
    return first, following


def path_to(node: int, parents: list[int]) -> list[int]:
    """The nodes from the root to `node`, both included."""
    path = [node]
    while path[-1] != 0:
        path.append(parents[path[-1]])
    return path[::-1]
