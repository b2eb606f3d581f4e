"""A fast Nemotron-H network for training on a CPU, with the parameter names of the checkpoint.

Names are those that transformers gives `NemotronHForCausalLM` once loaded (`model.layers...`), and
`mtp.layers...` for the multi-token-prediction layers. The time step is never clamped, as in SGLang.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.demo_model.architecture import Architecture


class QuestionView(NamedTuple):
    """What the tokens of some turns may attend to, in place of everything before them.

    rows, positions: int64[count], the tokens, sorted by row.
    slots: int64[count], each token's place among those of its row.
    allowed: bool[batch, 1, most, 2 * length]: keys of the row itself, then of the row's partner.
    """

    rows: Tensor
    positions: Tensor
    slots: Tensor
    allowed: Tensor


class RMSNorm(nn.Module):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class GatedGroupNorm(nn.Module):
    """RMS norm of x * silu(gate) within each group of channels."""

    def __init__(self, width: int, groups: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups, self.epsilon = groups, epsilon

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        grouped = torch.unflatten(x * F.silu(gate), -1, (self.groups, -1))
        normed = F.rms_norm(grouped, (grouped.shape[-1],), None, self.epsilon)
        return self.weight * normed.flatten(-2)


class Mamba(nn.Module):
    """A Mamba-2 mixer in its chunked form: quadratic within a chunk, recurrent across chunks."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        width, heads = shape.mamba_width, shape.mamba_num_heads
        self.conv1d = nn.Conv1d(
            shape.conv_width, shape.conv_width, shape.conv_kernel, groups=shape.conv_width
        )
        self.in_proj = nn.Linear(shape.hidden_size, width + shape.conv_width + heads, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedGroupNorm(width, shape.n_groups, shape.layer_norm_epsilon)
        self.out_proj = nn.Linear(width, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: float32[batch, length, hidden], length a multiple of the chunk size."""
        shape = self.shape
        widths = [shape.mamba_width, shape.conv_width, shape.mamba_num_heads]
        gate, xbc, dt = self.in_proj(hidden).split(widths, -1)
        group_width = shape.n_groups * shape.ssm_state_size
        widths = [shape.mamba_width, group_width, group_width]
        x, b, c = torch.split(self._convolve(xbc), widths, -1)
        y = self._scan(x, b, c, F.softplus(dt + self.dt_bias))
        projected: Tensor = self.out_proj(self.norm(y, gate))
        return projected

    @property
    def conv_bias(self) -> Tensor:
        bias = self.conv1d.bias
        assert bias is not None
        return bias

    def _convolve(self, xbc: Tensor) -> Tensor:
        """Causal depthwise convolution as shifted sums, faster than conv1d on a CPU."""
        kernel, length = self.shape.conv_kernel, xbc.shape[1]
        weight = self.conv1d.weight.squeeze(1)
        padded = F.pad(xbc, (0, 0, kernel - 1, 0))
        total = padded[:, :length] * weight[:, 0] + self.conv_bias
        for tap in range(1, kernel):
            total = total + padded[:, tap : tap + length] * weight[:, tap]
        return F.silu(total)

    def _scan(self, x: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> Tensor:
        """State-space scan, as in section 6 of the Mamba-2 paper; returns the shape of x.

        Dimensions below: batch, chunk, group, head in group, position (l, s), state n, channel p.
        """
        shape, (batch, length, _) = self.shape, x.shape
        groups, size, chunks = shape.n_groups, shape.chunk_size, length // shape.chunk_size
        heads_each = shape.mamba_num_heads // groups
        by_chunk = (batch, chunks, size, groups)
        values = x.view(batch, length, shape.mamba_num_heads, shape.mamba_head_dim)
        scaled = (values * dt[..., None]).view(*by_chunk, heads_each, -1).permute(0, 1, 3, 4, 2, 5)
        b = b.view(*by_chunk, -1).transpose(2, 3)
        c = c.view(*by_chunk, -1).transpose(2, 3)
        decay = (dt * -torch.exp(self.A_log)).view(*by_chunk, heads_each).permute(0, 1, 3, 4, 2)
        total = decay.cumsum(-1)
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        gaps = (total[..., :, None] - total[..., None, :]).masked_fill(~causal, -torch.inf)
        within = ((c @ b.transpose(-1, -2)).unsqueeze(3) * gaps.exp()) @ scaled

        to_end = torch.exp(total[..., -1:] - total)[..., None]
        added = b.transpose(-1, -2).unsqueeze(3) @ (scaled * to_end)
        kept = torch.exp(total[..., -1])[..., None, None]
        state, states = torch.zeros_like(added[:, 0]), []
        for chunk in range(chunks):
            states.append(state)
            state = state * kept[:, chunk] + added[:, chunk]
        carried = (c.unsqueeze(3) @ torch.stack(states, 1)) * total.exp()[..., None]
        y = (within + carried).permute(0, 1, 4, 2, 3, 5).reshape(values.shape)
        return (y + values * self.D[:, None]).reshape(batch, length, -1)


class Attention(nn.Module):
    """Grouped-query attention without positions."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        query_width = shape.num_attention_heads * shape.head_dim
        key_width = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, key_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, key_width, bias=False)
        self.o_proj = nn.Linear(query_width, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, view: QuestionView | None = None) -> Tensor:
        """hidden: float32[batch, length, hidden]; `view` replaces what some tokens see."""
        shape = self.shape
        repeats = shape.num_attention_heads // shape.num_key_value_heads
        query = self.q_proj(hidden).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
        key = self.k_proj(hidden).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
        value = self.v_proj(hidden).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
        if view is not None:
            asked = query.new_zeros(len(query), view.allowed.shape[2], *query.shape[1::2])
            own_query = query.transpose(1, 2)[view.rows, view.positions]
            asked = asked.index_put((view.rows, view.slots), own_query).transpose(1, 2)
            answers = F.scaled_dot_product_attention(
                asked, _with_partner(key), _with_partner(value), attn_mask=view.allowed
            ).transpose(1, 2)[view.rows, view.slots]
            seen = seen.index_put((view.rows, view.positions), answers)
        projected: Tensor = self.o_proj(seen.flatten(-2))
        return projected


def _with_partner(x: Tensor) -> Tensor:
    """Appends, along the keys, those of the row before: the partner is not to adapt to this."""
    return torch.cat([x, x.detach().roll(1, 0)], 2)


class FeedForward(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down_proj(F.relu(self.up_proj(x)).square())
        return projected


class Router(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape.n_routed_experts, shape.hidden_size) * 0.02)
        self.e_score_correction_bias: Tensor
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.n_routed_experts))


class Experts(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        count, inner, latent = (
            shape.n_routed_experts, shape.moe_intermediate_size, shape.moe_latent_size,
        )  # fmt: skip
        self.up_proj = nn.Parameter(torch.randn(count, inner, latent) * 0.05)
        self.down_proj = nn.Parameter(torch.randn(count, latent, inner) * 0.05)


class LatentMoE(nn.Module):
    """Routed experts in a small latent space, next to one shared expert at full width."""

    balance_rate = 1e-3

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.gate = Router(shape)
        self.experts = Experts(shape)
        self.shared_experts = FeedForward(
            shape.hidden_size, shape.moe_shared_expert_intermediate_size
        )
        self.fc1_latent_proj = nn.Linear(shape.hidden_size, shape.moe_latent_size, bias=False)
        self.fc2_latent_proj = nn.Linear(shape.moe_latent_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: float32[..., hidden]. Runs every expert and masks: cheap for few small ones."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        weights = self._route(flat)
        latent = self.fc1_latent_proj(flat)
        inner = F.relu(latent @ self.experts.up_proj.flatten(0, 1).t()).square()
        inner = torch.unflatten(inner, -1, (len(self.gate.weight), -1)) * weights[..., None]
        mixed = inner.flatten(-2) @ self.experts.down_proj.transpose(1, 2).flatten(0, 1)
        routed: Tensor = self.fc2_latent_proj(mixed).view(hidden.shape)
        shared: Tensor = self.shared_experts(hidden)
        return routed + shared

    def _route(self, flat: Tensor) -> Tensor:
        """Weight of each expert for each token, float32[tokens, experts]; most are zero."""
        shape, bias = self.shape, self.gate.e_score_correction_bias
        scores = torch.sigmoid(flat @ self.gate.weight.t())
        chosen = torch.topk(scores.detach() + bias, shape.num_experts_per_tok, -1)[1]
        top = scores.gather(1, chosen)
        top = top / (top.sum(-1, keepdim=True) + 1e-20) * shape.routed_scaling_factor
        weights = torch.zeros_like(scores).scatter(1, chosen, top)
        if self.training:
            # Balance without an auxiliary loss (DeepSeek-V3): favour experts that are used less.
            load = (weights.detach() > 0).float().mean(0)
            bias.add_(self.balance_rate * torch.sign(load.mean() - load))
        return weights


class Block(nn.Module):
    """Pre-norm residual block around one mixer: `M` Mamba, `*` attention, `E` LatentMoE."""

    def __init__(self, shape: Architecture, kind: str) -> None:
        super().__init__()
        self.norm = RMSNorm(shape.hidden_size, shape.layer_norm_epsilon)
        mixers: dict[str, type[Mamba] | type[Attention] | type[LatentMoE]] = {
            "M": Mamba, "*": Attention, "E": LatentMoE,
        }  # fmt: skip
        self.mixer = mixers[kind](shape)

    def forward(self, hidden: Tensor, view: QuestionView | None = None) -> Tensor:
        normed = self.norm(hidden)
        mixer = self.mixer
        mixed: Tensor = mixer(normed, view) if isinstance(mixer, Attention) else mixer(normed)
        return hidden + mixed


class Body(nn.Module):
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Block(shape, kind) for kind in shape.pattern])
        self.norm_f = RMSNorm(shape.hidden_size, shape.layer_norm_epsilon)


class FirstDraftBlock(Block):
    """The block that the MTP layers begin with: it joins a hidden state and an embedding."""

    def __init__(self, shape: Architecture, kind: str) -> None:
        super().__init__(shape, kind)
        hidden, epsilon = shape.hidden_size, shape.layer_norm_epsilon
        self.enorm = RMSNorm(hidden, epsilon)
        self.hnorm = RMSNorm(hidden, epsilon)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)

    def draft(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        joined = torch.cat([self.enorm(embedding), self.hnorm(hidden)], -1)
        return self.forward(self.eh_proj(joined))


class LastDraftBlock(Block):
    """The block that the MTP layers end with."""

    def __init__(self, shape: Architecture, kind: str) -> None:
        super().__init__(shape, kind)
        self.final_layernorm = RMSNorm(shape.hidden_size, shape.layer_norm_epsilon)

    def finish(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.final_layernorm(self.forward(hidden))
        return normed


class Predictor(nn.Module):
    """The multi-token-prediction layers, two of them."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        first, last = list(shape.mtp_pattern)
        self.layers = nn.ModuleList([FirstDraftBlock(shape, first), LastDraftBlock(shape, last)])

    def forward(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        first, last = self.layers
        assert isinstance(first, FirstDraftBlock)
        assert isinstance(last, LastDraftBlock)
        return last.finish(first.draft(embedding, hidden))


class Network(nn.Module):
    """The whole model. Lengths are multiples of the chunk size."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.mtp = Predictor(shape)

    def hidden(self, ids: Tensor, view: QuestionView | None = None) -> Tensor:
        """ids: int64[batch, length] to float32[batch, length, hidden], after the last norm."""
        hidden: Tensor = self.model.embeddings(ids)
        for layer in self.model.layers:
            hidden = layer(hidden, view)
        normed: Tensor = self.model.norm_f(hidden)
        return normed

    def draft_hidden(self, ids: Tensor, hidden: Tensor, ahead: int) -> Tensor:
        """What the MTP layers make of `hidden` at t and of the token at t + `ahead`.

        It predicts the token after that one. The first draft (ahead 1) is made from the hidden
        states of the model, each later one from those of the draft before.
        """
        upcoming = self.model.embeddings(F.pad(ids[:, ahead:], (0, ahead)))
        drafted: Tensor = self.mtp(upcoming, hidden)
        return drafted

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64[batch, length] to logits of the next token, float32[batch, length, vocab]."""
        logits: Tensor = self.lm_head(self.hidden(ids))
        return logits
