"""KV of latent attention (MLA) beside KDA states, as Kimi-Linear has them: out to host and back.

No kernel of such a model runs on a CPU, so these are SGLang's own pools without a model: what is
written at some slots is read, bit for bit, at others of another engine's.
"""

import json

import pytest
from engine_cpu.server import ARGUMENTS, MODEL
from engine_cpu.test_patches import python


@pytest.fixture(scope="module")
def moved():
    done = python(
        """
        import json
        from types import SimpleNamespace
        import torch
        from sglang.srt.configs.mamba_utils import (
            KimiLinearCacheParams, KimiLinearStateShape, Mamba2StateDType,
        )
        from sglang.srt.mem_cache import memory_pool as pools
        from sglang.srt.runtime_context import get_context
        from sglang.srt.server_args import prepare_server_args
        from engine.linker.frames import Frames
        from engine.linker.pools import describe_pools

        get_context().set_server_args(prepare_server_args(sys.argv[1:]))
        PAGE = 64
        ATTENTION, LINEAR = [1, 3], [0, 2]
        shared = dict(page_size=PAGE, dtype=torch.bfloat16, device="cpu")
        latent = dict(kv_lora_rank=16, qk_rope_head_dim=8)

        def engine(*, drafts):
            states = pools.HybridReqToTokenPool(
                size=4, mamba_size=8, mamba_spec_state_size=4, max_context_len=512, device="cpu",
                enable_memory_saver=False, mamba_layer_ids=LINEAR, enable_mamba_extra_buffer=True,
                cache_params=KimiLinearCacheParams(
                    shape=KimiLinearStateShape.create(tp_world_size=1, num_heads=2, head_dim=8),
                    dtype=Mamba2StateDType(conv=torch.bfloat16, temporal=torch.float32),
                    layers=LINEAR,
                ),
            )
            kv = pools.HybridLinearKVPool(
                size=8 * PAGE, head_num=1, head_dim=24, full_attention_layer_ids=ATTENTION,
                mamba_pool=states.mamba_pool, use_mla=True, **latent, **shared,
            )
            draft = pools.MLATokenToKVPool(
                size=8 * PAGE, layer_num=1, enable_memory_saver=False, **latent, **shared
            )
            for buffer in (*kv.full_kv_pool.kv_buffer, *draft.kv_buffer):
                buffer.normal_()
            cache = states.mamba_pool.mamba_cache
            for buffer in (cache.temporal, *cache.conv):
                buffer.normal_()
            described = describe_pools(SimpleNamespace(
                token_to_kv_pool_allocator=SimpleNamespace(size=kv.size, get_kvcache=lambda: kv),
                req_to_token_pool=states, page_size=PAGE, mtp_draft_mamba_pools=(),
                mtp_draft_device_pools=(draft,) if drafts else (), sidecar_draft_device_pools=(),
            ))
            return SimpleNamespace(kv=kv, draft=draft, states=cache, described=described)

        def carry(layout, rows, source, target):
            frames = Frames(getattr(source.described, layout), 4, pin=False)
            frames.gather(torch.tensor(rows[0])[:, None])
            frames.layout = getattr(target.described, layout)
            targets = frames.targets(torch.arange(len(rows[0])), torch.tensor(rows[1])[:, None])
            for layer in range(target.described.num_layers):
                frames.scatter(targets, layer)

        def page(engine, layer, row):
            return engine.kv.get_key_buffer(layer)[row * PAGE : (row + 1) * PAGE]

        found = {}
        for drafts in (False, True):
            first, second = engine(drafts=drafts), engine(drafts=drafts)
            before = [page(second, layer, 5).clone() for layer in ATTENTION]
            carry("kv", ([2, 4], [6, 1]), first, second)
            carry("state", ([3], [7]), first, second)
            name = "with a draft" if drafts else "alone"
            found[name] = {
                "pages": all(
                    torch.equal(page(first, layer, a), page(second, layer, b))
                    for layer in ATTENTION for a, b in ((2, 6), (4, 1))
                ),
                "draft": torch.equal(
                    first.draft.kv_buffer[0][2 * PAGE : 3 * PAGE],
                    second.draft.kv_buffer[0][6 * PAGE : 7 * PAGE],
                ),
                "others": all(
                    torch.equal(a, page(second, layer, 5))
                    for a, layer in zip(before, ATTENTION, strict=True)
                ),
                "states": all(
                    torch.equal(a[:, 3], b[:, 7]) for a, b in zip(
                        (first.states.temporal, *first.states.conv),
                        (second.states.temporal, *second.states.conv), strict=True,
                    )
                ),
                "kv_bytes": first.described.kv.payload_bytes,
                "dtypes": [first.described.kv_dtype, first.described.conv_dtype,
                           first.described.ssm_dtype],
            }
        print(json.dumps(found))
        """,
        *("--model-path", str(MODEL), *ARGUMENTS),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", ["alone", "with a draft"])
def test_latent_pages_and_their_states_arrive_in_other_slots_bit_for_bit(moved, engine):
    assert moved[engine]["pages"]
    assert moved[engine]["states"]
    assert moved[engine]["others"], "a page that was not asked for has changed"


def test_latent_drafts_travel_with_the_pages(moved):
    assert moved["with a draft"]["draft"]
    assert not moved["alone"]["draft"]


def test_a_latent_page_is_one_buffer_per_layer(moved):
    per_layer = 64 * (16 + 8) * 2
    assert moved["alone"]["kv_bytes"] == 2 * per_layer
    assert moved["with a draft"]["kv_bytes"] == 3 * per_layer
    assert moved["alone"]["dtypes"] == ["bfloat16", "bfloat16", "float32"]
