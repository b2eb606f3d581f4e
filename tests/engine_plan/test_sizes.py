"""Sizes that a plan is made of, against published figures, SGLang's own and real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ImpossiblePlan
from engine.plan.architecture import read_architecture
from engine.plan.device import SLOTS
from engine.plan.models import model_of
from engine.plan.sizes import Dtypes, Layout, rank_size, why_not
from engine.plan.weights import counted, weight_files
from engine.profiles import architecture_file
from engine.profiles.files import Weights

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "models/demo"
MIB, GIB, GB = 1 << 20, 1 << 30, 10**9
LOSSLESS = Dtypes(kv="bfloat16", conv="bfloat16", ssm="float32")
HALVED = Dtypes(kv="bfloat16", conv="bfloat16", ssm="bfloat16")
FP8_KV = Dtypes(kv="fp8_e4m3", conv="bfloat16", ssm="float32")
WHOLE = Layout()

GRANITE = {
    "model_type": "granitemoehybrid",
    "hidden_size": 1536,
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "max_position_embeddings": 131072,
}
FALCON = {
    "model_type": "falcon_h1",
    "hidden_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "mamba_d_ssm": 3072,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 256,
    "max_position_embeddings": 131072,
}
QWEN = {
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "max_position_embeddings": 262144,
}


def config_of(name):
    return json.loads((architecture_file(name) or DEMO / "config.json").read_text())


def size_of(name, dtypes, layout=WHOLE, *, mtp=True):
    return rank_size(read_architecture(config_of(name)), dtypes, layout, mtp=mtp)


@pytest.mark.parametrize(
    ("name", "lossless", "halved", "kv", "fp8_kv", "draft", "tokens"),
    [
        ("nemotron-3-nano", 46.8, 23.8, 6144, 3072, 0, 8.0),
        ("nemotron-3-super", 162.3, 82.3, 8192, 4096, 1024, 20.8),
        ("nemotron-3-ultra", 389.1, 197.1, 12288, 6144, 1024, 33.2),
    ],
)
def test_sessions_of_nemotron_3_have_the_known_sizes(
    name, lossless, halved, kv, fp8_kv, draft, tokens
):
    size = size_of(name, LOSSLESS)
    assert round(size.state / MIB, 1) == lossless
    assert round(size_of(name, HALVED).state / MIB, 1) == halved
    assert size.kv_per_token == kv
    assert size_of(name, FP8_KV).kv_per_token == fp8_kv
    assert size.draft_kv_per_token == draft
    assert size_of(name, LOSSLESS, mtp=False).draft_kv_per_token == 0
    assert round(size.state / size.kv_per_token / 1000, 1) == tokens


@pytest.mark.parametrize(
    ("name", "precision", "published", "within"),
    [
        ("nemotron-3-nano", "bf16", 58.9 * GIB, 0.01),  # memory after loading
        ("nemotron-3-nano", "fp8", 31.4 * GIB, 0.04),  # memory after loading
        ("nemotron-3-ultra", "bf16", 1121 * GB, 0.01),  # size of the checkpoint
        ("nemotron-3-ultra", "nvfp4", 352.3 * GB, 0.01),  # size of the checkpoint
    ],
)
def test_counted_weights_are_those_that_are_published(name, precision, published, within):
    total, alone = model_of(name, precision, "B200").weights(WHOLE, mtp=True)
    assert total == alone
    assert total == pytest.approx(published, rel=within)


def test_counted_weights_are_those_in_the_demo_models_file():
    architecture = read_architecture(config_of("demo"))
    total, _ = counted(architecture, architecture.blocks, Weights(default="fp32"), WHOLE, mtp=True)
    assert total == pytest.approx(weight_files(DEMO), rel=0.005)


@pytest.mark.parametrize("name", ["nemotron-3-nano", "nemotron-3-super", "nemotron-3-ultra"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_ranks_hold_all_weights_and_more(name, tp):
    """Router, latent projections and norms are whole on each rank, so it is not an exact share."""
    total, per_gpu = model_of(name, "bf16", "B200").weights(Layout(tp), mtp=True)
    assert total / tp < per_gpu < 1.05 * total / tp


# ---- against SGLang ---------------------------------------------------------------

CASES = [
    *((config_of(name), ranks) for name in ("demo",) for ranks in (1, 2)),
    *(
        (config_of(name), ranks)
        for name in ("nemotron-3-nano", "nemotron-3-super", "nemotron-3-ultra")
        for ranks in (1, 2, 4, 8)
    ),
    *((GRANITE, ranks) for ranks in (1, 2, 4)),
    *((FALCON, ranks) for ranks in (1, 2, 4)),
    *((QWEN, ranks) for ranks in (1, 2, 4, 8)),
]


@pytest.fixture(scope="module")
def sglang():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("sglang_sizes.py")],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ
        | {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=lambda n: f"{CASES[n][0]['model_type']}-{n}-tp{CASES[n][1]}"
)
def test_states_are_as_large_as_sglang_makes_them(sglang, case):
    config, ranks = CASES[case]
    architecture = read_architecture(config)
    ours = rank_size(architecture, LOSSLESS, Layout(ranks), mtp=False)
    assert ours.state == sglang["sizes"][case]["state"]
    assert architecture.recurrence.layers == sglang["sizes"][case]["recurrent_layers"]
    assert architecture.attention.layers == sglang["sizes"][case]["attention_layers"]


def test_a_running_session_takes_as_many_slots_as_sglang_gives_it(sglang):
    assert sglang["slots"] == SLOTS


# ---- dividing ------------------------------------------------------------------------


def test_two_kv_heads_over_eight_ranks_leave_one_head_on_each():
    two, eight = (size_of("nemotron-3-ultra", LOSSLESS, Layout(tp)) for tp in (2, 8))
    assert eight.kv_per_token == two.kv_per_token == 6144
    assert eight.draft_kv_per_token == 512
    assert eight.ssm * 8 == two.ssm * 2 == size_of("nemotron-3-ultra", LOSSLESS).ssm


@pytest.mark.parametrize(
    ("config", "layout", "words"),
    [
        (config_of("nemotron-3-ultra"), Layout(16), "8 recurrent groups"),
        (config_of("nemotron-3-nano"), Layout(3), "64 recurrent heads"),
        ({**config_of("nemotron-3-nano"), "moe_intermediate_size": 1857}, Layout(2), "width 1857"),
        (GRANITE, Layout(8), "12 attention heads"),
    ],
)
def test_what_sglang_cannot_divide_is_not_planned(config, layout, words):
    architecture = read_architecture(config)
    assert words in why_not(architecture, layout)
    with pytest.raises(ImpossiblePlan, match=words):
        rank_size(architecture, LOSSLESS, layout, mtp=True)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "type 'llama'.*known are nemotron_h"),
        ({**QWEN, "full_attention_interval": 1}, "a hybrid, with both"),
        ({name: QWEN[name] for name in QWEN if name != "linear_key_head_dim"}, "has no field"),
    ],
)
def test_a_config_that_cannot_be_planned_for_is_refused(config, words):
    with pytest.raises(ImpossiblePlan, match=words):
        read_architecture(config)
