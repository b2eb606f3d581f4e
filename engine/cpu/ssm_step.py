"""The Mamba-2 recurrence, a few tokens at a time: decode (one) and verify (a chain or tree)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.cpu.conv import PAD
from engine.patch import Kind, Patch


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    pad_slot_id: int = PAD,
    out: Tensor | None = None,
    disable_state_update: bool = False,
    intermediate_states_buffer: Tensor | None = None,
    cache_steps: int | None = None,
    retrieve_parent_token: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    **unsupported: Any,
) -> None:
    """Advance the state of each request and write its outputs.

    Args:
        state: [slots, heads, head_dim, d_state], any float dtype, updated unless
            `disable_state_update`. Arithmetic is float32.
        x, out: [batch, (steps,) heads, head_dim].
        dt: [batch, (steps,) heads, head_dim], the same for all of head_dim (expanded by the mixer).
        A: [heads, head_dim, d_state]; D, dt_bias: [heads, head_dim]; expanded likewise.
        B, C: [batch, (steps,) groups, d_state].
        state_batch_indices: int[batch]; requests at `pad_slot_id` leave no trace in any state.
        intermediate_states_buffer: [rows, steps, heads, head_dim, d_state]; if given, receives at
            row `intermediate_state_indices[b]` the state after each token of request b.
        retrieve_parent_token: int[batch, steps]; if given, the tokens form a tree and each
            continues from its parent's state, as stored (rounded) in the buffer.
    """
    if z is not None or any(unsupported.values()):
        raise NotImplementedError(f"z gate or {sorted(unsupported)}: not used by Nemotron-H on CPU")
    assert out is not None
    if x.dim() == 3:
        x, dt, B, C, out = (t.unsqueeze(1) for t in (x, dt, B, C, out))
    batch, steps, heads, _ = x.shape
    per_group = heads // B.shape[2]
    slots = torch.arange(batch) if state_batch_indices is None else state_batch_indices.long()
    live = slots != pad_slot_id
    rows = slots if intermediate_state_indices is None else intermediate_state_indices.long()
    current = state[slots.clamp(min=0)].float()

    step = dt[..., 0].float()  # [batch, steps, heads]
    if dt_bias is not None:
        step = step + dt_bias[:, 0].float()
    if dt_softplus:
        step = F.softplus(step)
    decay = (step * A[:, 0, 0].float()).exp()[..., None, None]
    xs = x.float()
    fed = (xs * step[..., None])[..., None]  # [batch, steps, heads, head_dim, 1]
    Bs = B.float().repeat_interleave(per_group, dim=2)[..., None, :]
    Cs = C.float().repeat_interleave(per_group, dim=2)[..., None]
    after: list[Tensor] = []
    for t in range(steps):
        if retrieve_parent_token is not None and t > 0:
            parent = retrieve_parent_token[:, t].long()
            current = torch.stack(after)[parent, torch.arange(batch)]
        current = torch.addcmul(current * decay[:, t], fed[:, t], Bs[:, t])
        y = (current @ Cs[:, t]).squeeze(-1)
        out[:, t] = y if D is None else torch.addcmul(y, xs[:, t], D.float())
        if intermediate_states_buffer is not None:
            stored = current.to(intermediate_states_buffer.dtype)
            intermediate_states_buffer[rows[live], t] = stored[live]
            after.append(stored.float())
        elif retrieve_parent_token is not None:
            after.append(current)
    if not disable_state_update:
        state[slots[live]] = current[live].to(state.dtype)


PATCHES = (
    Patch(
        "sglang.srt.layers.attention.mamba.mamba.selective_state_update",
        Kind.REPLACE,
        selective_state_update,
        "a Triton kernel; the mixer has no other decode or verify path",
    ),
)
