from types import SimpleNamespace

import pytest
import torch

from engine.cpu import moe
from engine.cpu.moe import experts_relu2, moe_forward_native

EXPERTS, HIDDEN, INTER, K = 5, 6, 7, 3


@pytest.fixture(params=["gathered", "looped"])
def path(request, monkeypatch):
    monkeypatch.setattr(moe, "_GATHER_ELEMENTS", 1 << 30 if request.param == "gathered" else 0)


def setup(tokens, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, HIDDEN, generator=rng).to(dtype)
    up = torch.randn(EXPERTS, INTER, HIDDEN, generator=rng).to(dtype)
    down = torch.randn(EXPERTS, HIDDEN, INTER, generator=rng).to(dtype)
    weights = torch.rand(tokens, K, generator=rng)
    ids = torch.stack([torch.randperm(EXPERTS, generator=rng)[:K] for _ in range(tokens)])
    return x, up, down, weights, ids.int()


def naive(x, up, down, weights, ids):
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(len(x)):
        for weight, e in zip(weights[t], ids[t].tolist(), strict=True):
            if e >= 0:
                inner = (up[e].double() @ x[t].double()).clamp(min=0) ** 2
                out[t] += weight.double() * (down[e].double() @ inner)
    return out


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_experts_equal_the_sum_written_out(tokens):
    args = setup(tokens)
    torch.testing.assert_close(experts_relu2(*args).double(), naive(*args), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("path")
def test_unused_places_add_nothing():
    *args, ids = setup(8)
    ids[2] = -1
    ids[5, 1] = -1
    torch.testing.assert_close(
        experts_relu2(*args, ids).double(), naive(*args, ids), rtol=1e-5, atol=1e-4
    )


@pytest.mark.usefixtures("path")
def test_bfloat16_experts_are_summed_in_float32():
    args = setup(9, dtype=torch.bfloat16)
    out = experts_relu2(*args)
    assert out.dtype == torch.float32
    expected = naive(*args)
    assert (out.double() - expected).abs().max() < 0.02 * expected.abs().max()


def forward(fused_in_topk, *, activation="relu2", scale=2.5, gated=False):
    x, up, down, weights, ids = setup(4)
    layer = SimpleNamespace(
        w13_weight=up, w2_weight=down, should_fuse_routed_scaling_factor_in_topk=fused_in_topk
    )
    config = SimpleNamespace(
        activation=activation,
        apply_router_weight_on_input=False,
        is_gated=gated,
        routed_scaling_factor=scale,
    )
    upstream = lambda *_: "upstream"  # noqa: E731
    return moe_forward_native(upstream, layer, x, (weights, ids, None), config)


def test_the_routed_scaling_factor_is_applied_exactly_once():
    plain = naive(*setup(4))
    torch.testing.assert_close(forward(False).double(), plain * 2.5, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(forward(True).double(), plain, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(forward(False, scale=None).double(), plain, rtol=1e-5, atol=1e-4)


def test_other_activations_go_upstream():
    assert forward(False, activation="silu") == "upstream"


def test_gated_experts_are_refused():
    with pytest.raises(NotImplementedError):
        forward(False, gated=True)
