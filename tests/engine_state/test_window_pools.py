"""States of sliding windows and Mamba layers in SGLang's own pools, without a model: out and in."""

import json

import pytest
from engine_cpu.server import ARGUMENTS, MODEL
from engine_cpu.test_patches import python


@pytest.fixture(scope="module")
def found():
    done = python(
        """
        import json
        from types import SimpleNamespace
        import torch
        from sglang.srt.configs.mamba_utils import (
            Mamba2CacheParams, Mamba2StateDType, Mamba2StateShape,
        )
        from sglang.srt.mem_cache import memory_pool as pools, swa_memory_pool as swa
        from sglang.srt.mem_cache.unified_cache.components import ComponentType
        from sglang.srt.runtime_context import get_context
        from sglang.srt.server_args import prepare_server_args
        from engine.linker.fingerprint import _segments
        from engine.linker.frames import Frames
        from engine.linker.pools import describe_pools
        from engine.linker.windows import StateParts

        get_context().set_server_args(prepare_server_args(sys.argv[1:]))
        PAGE, WINDOWS, FULL, MAMBA = 64, [1, 4], [3], [0, 2]
        REST = [0, 2, 3, 5, 6, 7]  # rows that nothing is carried to

        def engine(window, *, mamba):
            states = pools.ReqToTokenPool(
                size=4, max_context_len=512, device="cpu", enable_memory_saver=False
            )
            if mamba:
                shape = Mamba2StateShape.create(
                    tp_world_size=1, intermediate_size=32, n_groups=1, num_heads=4, head_dim=8,
                    state_size=8, conv_kernel=4,
                )
                dtype = Mamba2StateDType(conv=torch.bfloat16, temporal=torch.float32)
                states = pools.HybridReqToTokenPool(
                    size=4, mamba_size=8, mamba_spec_state_size=4, max_context_len=512,
                    device="cpu", enable_memory_saver=False, mamba_layer_ids=MAMBA,
                    enable_mamba_extra_buffer=True,
                    cache_params=Mamba2CacheParams(shape=shape, dtype=dtype, layers=MAMBA),
                )
                cache = states.mamba_pool.mamba_cache
                for buffer in (cache.temporal, *cache.conv):
                    buffer.normal_()
            kv = swa.SWAKVPool(
                size=8 * PAGE, size_swa=7 * PAGE, page_size=PAGE, dtype=torch.bfloat16,
                head_num=2, head_dim=8, swa_attention_layer_ids=WINDOWS,
                full_attention_layer_ids=FULL, device="cpu",
            )
            for pool in (kv.full_kv_pool, kv.swa_kv_pool):
                for buffer in (*pool.k_buffer, *pool.v_buffer):
                    buffer.normal_()
            allocator = SimpleNamespace(
                size_full=kv.size, size_swa=kv.size_swa, get_kvcache=lambda: kv
            )
            described = describe_pools(SimpleNamespace(
                token_to_kv_pool_allocator=allocator, req_to_token_pool=states, page_size=PAGE,
                swa_retain_window=window, mtp_draft_mamba_pools=(), mtp_draft_device_pools=(),
                sidecar_draft_device_pools=(),
            ))
            return SimpleNamespace(kv=kv, states=states, described=described)

        def windows(engine, row):
            return torch.stack([
                torch.stack(engine.kv.get_kv_buffer(layer))[:, row * PAGE : (row + 1) * PAGE]
                for layer in WINDOWS
            ])

        def mamba_state(engine, slot):
            cache = engine.states.mamba_pool.mamba_cache
            return [buffer[:, slot] for buffer in (cache.temporal, *cache.conv)]

        def carry(source, rows, target, to):
            frames = Frames(source.described.state, 1, pin=False)
            frames._payload.fill_(255)
            frames.gather(torch.tensor([rows]))
            layout, frames.layout = frames.layout, target.described.state
            targets = frames.targets(torch.arange(1), torch.tensor([to]))
            for layer in range(target.described.num_layers):
                frames.scatter(targets, layer)
            return frames, layout

        result = {}
        for mamba in (True, False):
            first, second = engine(100, mamba=mamba), engine(100, mamba=mamba)
            before = [windows(second, row).clone() for row in range(8)]
            slot = [3] if mamba else []
            carry(first, [*slot, 2, 5], second, [*([7] if mamba else []), 4, 1])
            whole = all(
                torch.equal(windows(first, a), windows(second, b)) for a, b in ((2, 4), (5, 1))
            )
            rest = all(torch.equal(windows(second, row), before[row]) for row in REST)
            third = engine(100, mamba=mamba)
            before = [windows(third, row).clone() for row in range(8)]
            carry(first, [*slot, 2, 5], third, [*slot, -1, 1])
            newest = torch.equal(windows(first, 5), windows(third, 1)) and all(
                torch.equal(windows(third, row), before[row]) for row in range(8) if row != 1
            )
            frames, layout = carry(first, [*slot, -1, 5], third, [*slot, -1, 1])
            oldest = [s for s in layout.segments if s.place == int(mamba)]
            result["with Mamba" if mamba else "alone"] = {
                "whole": whole, "rest": rest, "newest": newest,
                "zeros": all(
                    not frames._payload[0, s.offset : s.offset + s.row_bytes].any() for s in oldest
                ),
                "mamba": not mamba or all(
                    torch.equal(a, b)
                    for a, b in zip(mamba_state(first, 3), mamba_state(second, 7), strict=True)
                ),
                "slots": [first.described.kv_slots, first.described.state_slots],
                "dtypes": [first.described.conv_dtype, first.described.ssm_dtype],
            }

        layouts = {
            str(window): _segments(engine(window, mamba=True).described.state)
            for window in (64, 65, 100, 129)
        }
        result["alike"] = {w: layouts[w] == layouts["100"] for w in layouts}

        def node(parent, pages, held=True, state=False):
            slots = torch.arange(pages * PAGE) if held else None
            slot = torch.tensor([1]) if state else None
            return SimpleNamespace(
                parent=parent, hash_value=[str(page) for page in range(pages)],
                component_data={
                    ComponentType.SWA: SimpleNamespace(value=slots),
                    ComponentType.MAMBA: SimpleNamespace(value=slot),
                },
            )

        root = node(None, 0)
        parts, both = StateParts(False, 3), StateParts(True, 3)
        long, short = node(root, 5), node(root, 1)
        result["are at"] = {
            "a node as long as the window": parts.are_at(long),
            "a node after another": parts.are_at(node(node(root, 4), 1)),
            "a text shorter than the window": parts.are_at(short),
            "a node after one whose window is gone": parts.are_at(node(node(root, 4, False), 2)),
            "a node far after such a one": parts.are_at(node(node(root, 4, False), 3)),
            "a node without its own": parts.are_at(node(long, 1, False)),
            "a window without its Mamba state": both.are_at(long),
            "both": both.are_at(node(root, 5, state=True)),
            "a Mamba state without its window": both.are_at(node(root, 5, False, state=True)),
        }
        result["slots of a window"] = parts.window(node(node(root, 5), 1)).tolist()
        print(json.dumps(result))
        """,
        *("--model-path", str(MODEL), *ARGUMENTS),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("model", ["with Mamba", "alone"])
def test_a_window_arrives_in_other_slots_bit_for_bit(found, model):
    assert found[model]["whole"]
    assert found[model]["mamba"]
    assert found[model]["rest"], "a page that was not asked for has changed"


@pytest.mark.parametrize("model", ["with Mamba", "alone"])
def test_of_a_window_that_the_device_holds_in_part_the_rest_is_loaded(found, model):
    assert found[model]["newest"]


@pytest.mark.parametrize("model", ["with Mamba", "alone"])
def test_what_a_short_text_lacks_of_a_window_is_stored_as_zeros(found, model):
    assert found[model]["zeros"], "memory that others left was stored"


def test_the_room_of_an_engine_is_counted_in_whole_windows(found):
    assert found["alone"]["slots"] == [8 * 64, 3]
    assert found["alone"]["dtypes"] == ["none", "none"]


def test_windows_of_other_lengths_in_pages_are_states_of_another_format(found):
    assert found["alike"] == {"64": False, "65": True, "100": True, "129": False}


@pytest.mark.parametrize(
    ("place", "whole"),
    [
        ("a node as long as the window", True),
        ("a node after another", True),
        ("a text shorter than the window", True),
        ("a node after one whose window is gone", False),
        ("a node far after such a one", True),
        ("a node without its own", False),
        ("a window without its Mamba state", False),
        ("both", True),
        ("a Mamba state without its window", False),
    ],
)
def test_a_state_is_where_all_of_its_parts_are(found, place, whole):
    assert found["are at"][place] is whole


def test_a_window_begins_in_the_nodes_above(found):
    page = 64
    assert found["slots of a window"] == [*range(3 * page, 5 * page), *range(page)]
