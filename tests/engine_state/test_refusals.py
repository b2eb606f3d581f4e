"""What cannot be restored is refused at start, by name, before anything is loaded."""

import json

import pytest
from engine_cpu.server import ARGUMENTS, MODEL
from engine_cpu.test_patches import python

from .linked import linker_arguments

TWO_RANKS = ["--tp-size", "2"]
IN_PIECES = "--incremental-streaming-output"
ADAPTERS = "--lora-paths"
SAVER, BACKUP = "--enable-memory-saver", "--enable-weights-cpu-backup"
LAYOUTS = {
    "--pp-size": [],
    "--dp-size": [],
    "--attn-dp-size": TWO_RANKS,
    "--attn-cp-size": TWO_RANKS,
    "--dcp-size": TWO_RANKS,
}


@pytest.fixture(scope="module")
def layouts():
    """What becomes of each layout, by the argument that asks for it, as SGLang reads it."""
    start = ["--model-path", str(MODEL), *ARGUMENTS, *linker_arguments("redis://nowhere")]
    lines = {flag: [*start, *more, flag, "2"] for flag, more in LAYOUTS.items()}
    lines["tensor parallelism"] = [*start, *TWO_RANKS]
    lines[IN_PIECES] = [*start, IN_PIECES]
    lines[SAVER] = [*start, SAVER]
    lines[ADAPTERS] = [*start, ADAPTERS, "polite=/adapters/polite"]
    lines[BACKUP] = [*start, SAVER, BACKUP]
    done = python(
        """
        import json
        from sglang.srt.server_args import prepare_server_args
        from engine.errors import UnsupportedLayout, UnsupportedOption
        from engine.linker.layouts import require_restorable
        from engine.linker.options import require_supported

        found = {}
        for name, line in json.loads(sys.argv[1]).items():
            try:
                server_args = prepare_server_args(line)
                require_restorable(server_args)
                require_supported(server_args)
                found[name] = None
            except (UnsupportedLayout, UnsupportedOption) as error:
                found[name] = str(error)
        print(json.dumps(found))
        """,
        json.dumps(lines),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("flag", LAYOUTS)
def test_a_layout_that_cannot_be_restored_is_refused_with_what_to_do(layouts, flag):
    assert f"{flag} 2: " in layouts[flag]
    assert "Nothing was loaded." in layouts[flag]
    assert f"{flag} 1" in layouts[flag] or "Leave out" in layouts[flag] or "Start" in layouts[flag]


def test_tensor_parallelism_is_served(layouts):
    assert layouts["tensor parallelism"] is None


def test_answers_in_pieces_are_refused_with_what_to_do(layouts):
    assert f"Leave out {IN_PIECES}." in layouts[IN_PIECES]


def test_weights_that_can_be_given_up_have_to_be_kept_somewhere(layouts):
    assert f"add {BACKUP}." in layouts[SAVER]
    assert layouts[BACKUP] is None


def test_adapters_are_refused_with_what_to_do(layouts):
    assert f"Leave out --enable-lora and {ADAPTERS}, or" in layouts[ADAPTERS]


REFUSED_SERVERS = {
    ("--pp-size", "2"): "UnsupportedLayout: snapshots support",
    (IN_PIECES,): "UnsupportedOption: turns read the whole answer",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", REFUSED_SERVERS)
def test_a_server_that_is_refused_ends_with_one_line(arguments):
    done = python(
        "serve.main(sys.argv[1:])",
        *("--model-path", str(MODEL), *arguments),
        *(*ARGUMENTS, *linker_arguments("redis://nowhere")),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"torpor: {REFUSED_SERVERS[arguments]}")
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def pools():
    """What becomes of each pool: SGLang's own classes, a few slots each, on the CPU."""
    done = python(
        """
        import json
        from types import SimpleNamespace
        import torch
        from sglang.srt.mem_cache import memory_pool as pools, swa_memory_pool as swa
        from engine.errors import UnsupportedModel
        from engine.linker.pools import _attention_pools, _draft_pool

        shared = dict(page_size=64, dtype=torch.float32, device="cpu", enable_memory_saver=False)
        heads = dict(head_num=2, head_dim=16)

        def mha(kind=pools.MHATokenToKVPool, **other):
            return kind(size=128, layer_num=2, **shared, **heads, **other)

        def hybrid(inner):
            return pools.HybridLinearKVPool(
                size=128, full_attention_layer_ids=[0, 1], mamba_pool=None, full_kv_pool=inner,
                use_mla=not isinstance(inner, pools.MHATokenToKVPool), **shared, **heads,
            )

        latent = pools.MLATokenToKVPool(
            size=128, kv_lora_rank=16, qk_rope_head_dim=8, layer_num=2, **shared
        )

        class Sparse(pools.MLATokenToKVPool):
            pass  # as the pool of DSA, which adds indices

        sparse = Sparse(size=128, kv_lora_rank=16, qk_rope_head_dim=8, layer_num=2, **shared)

        class Scaled(pools.MHATokenToKVPool):
            pass  # as the FP4 and MXFP8 pools, whose buffers a CPU cannot make

        def windows(*full, **other):
            return swa.SWAKVPool(
                size=128, size_swa=128, swa_attention_layer_ids=[0], full_attention_layer_ids=full,
                **shared, **heads, **other,
            )

        def verdict(check, value, **more):
            try:
                check(value, **more)
                return None
            except UnsupportedModel as error:
                return str(error)

        def drafting(*drafts, page_size=64, mamba=()):
            return SimpleNamespace(
                mtp_draft_device_pools=drafts, sidecar_draft_device_pools=(),
                mtp_draft_mamba_pools=mamba, page_size=page_size,
            )

        def drafted(params, has_windows=False):
            return verdict(_draft_pool, params, has_windows=has_windows)

        print(json.dumps({
            "grouped": verdict(_attention_pools, hybrid(mha())),
            "no Mamba": verdict(_attention_pools, mha()),
            "latent": verdict(_attention_pools, latent),
            "latent in a hybrid": verdict(_attention_pools, hybrid(latent)),
            "sparse in a hybrid": verdict(_attention_pools, hybrid(sparse)),
            "sliding windows": verdict(_attention_pools, windows(1)),
            "sliding windows only": verdict(_attention_pools, windows()),
            "scaled windows": verdict(_attention_pools, windows(1, swa_kv_pool_class=Scaled)),
            "windows and scaled": verdict(_attention_pools, windows(1, full_kv_pool_class=Scaled)),
            "scaled": verdict(_attention_pools, hybrid(mha(Scaled))),
            "one draft": drafted(drafting(mha())),
            "draft beside windows": drafted(drafting(mha()), has_windows=True),
            "no draft": drafted(drafting()),
            "two drafts": drafted(drafting(mha(), mha())),
            "latent draft": drafted(drafting(latent)),
            "sparse draft": drafted(drafting(sparse)),
            "draft with states": drafted(drafting(mha(), mamba=(object(),))),
            "other draft pages": drafted(drafting(mha(), page_size=128)),
        }))
        """
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "pool",
    ["grouped", "latent in a hybrid", "sliding windows", "one draft", "latent draft", "no draft"],
)
def test_pools_that_snapshots_hold_are_served(pools, pool):
    assert pools[pool] is None


@pytest.mark.parametrize(
    ("pool", "named"),
    [
        ("no Mamba", "MHATokenToKVPool;"),
        ("latent", "MLATokenToKVPool;"),
        ("sparse in a hybrid", "HybridLinearKVPool over Sparse;"),
        ("sliding windows only", "every attention layer"),
        ("scaled windows", "SWAKVPool over Scaled;"),
        ("windows and scaled", "SWAKVPool over Scaled;"),
        ("scaled", "HybridLinearKVPool over Scaled;"),
        ("two drafts", "2 KV pools"),
        ("draft beside windows", "sliding windows"),
        ("sparse draft", "1 KV pools (Sparse)"),
        ("draft with states", "1 Mamba pools"),
        ("other draft pages", "64 tokens in the draft's KV pool and 128"),
    ],
)
def test_a_pool_that_snapshots_do_not_hold_is_refused_by_name(pools, pool, named):
    assert named in pools[pool]
    assert "Start the engine with" in pools[pool] or "without this linker" in pools[pool]
