"""Stored bytes of payloads: what each encoding keeps, what it refuses, and that it never lies."""

import hashlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_store.encodings import (
    ECONOMIES,
    LOSSLESS,
    Encoding,
    PayloadLayout,
    Segment,
    decode,
    economy_named,
    encode,
)
from state_store.encodings.blocks import BLOCK, CHUNK, TINY, limit
from state_store.encodings.segments import OPAQUE
from state_store.errors import CorruptObject, UnknownEconomy, UnknownEncoding
from state_store.layout import PART_BYTES

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
LOSSY = (Encoding.FP8, Encoding.INT8)
# Half a unit in the last place: relative, and absolute where float16 has no smaller numbers.
ROUNDING = {"float32": (0, 0), "bfloat16": (2**-8, 0), "float16": (2**-11, 2**-25)}


def raw(values: np.ndarray, dtype: str) -> bytearray:
    """float32 values in a dtype; bfloat16 by cutting digits off."""
    values = np.asarray(values, np.float32)
    if dtype == "float16":
        return bytearray(values.astype(np.float16).tobytes())
    if dtype == "bfloat16":
        return bytearray((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return bytearray(values.tobytes())


def values(payload: bytes | bytearray, dtype: str) -> np.ndarray:
    """float64."""
    if dtype == "bfloat16":
        bits = np.frombuffer(payload, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return np.frombuffer(payload, dtype).astype(np.float64)


def there_and_back(payload: bytearray, segments: tuple[Segment, ...], encoding: Encoding) -> bytes:
    """Through the encoding in one buffer, as a staging frame goes."""
    frame = bytearray(payload)
    done = encode(memoryview(frame), segments, encoding, memoryview(frame))
    assert done.encoding is encoding
    assert done.stored_bytes < len(payload)
    frame[done.stored_bytes :] = b"\xa5" * (len(frame) - done.stored_bytes)
    decode(memoryview(frame)[: done.stored_bytes], segments, done.encoding, memoryview(frame))
    return bytes(frame)


def bound(original: np.ndarray, dtype: str, encoding: Encoding) -> np.ndarray:
    """The largest error that `blocks.py` states, for whole blocks of one segment."""
    size = np.abs(original)
    largest = np.repeat(size.reshape(-1, BLOCK).max(axis=1), BLOCK)
    if encoding is Encoding.FP8:
        return np.maximum(np.maximum(size / 16, largest * 2**-17), TINY)
    relative, absolute = ROUNDING[dtype]
    return np.maximum(largest / 254 * (1 + 2**-15), TINY) + largest * relative + absolute


@st.composite
def numbers(draw: st.DrawFn, dtype: str, blocks: int = 3) -> np.ndarray:
    """Blocks of very different sizes, with zeros, denormals, equal and borderline numbers."""
    low, high = (-24, 14) if dtype == "float16" else (-148, 119)
    seed = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = []
    for _ in range(blocks):
        spread = draw(st.sampled_from([0, 1, 4, 20]))
        exponents = draw(st.integers(low, high)) - seed.random(BLOCK) * spread
        block = seed.choice([-1, 1], BLOCK) * np.exp2(np.maximum(exponents, low))
        if draw(st.booleans()):
            block *= 1 + seed.integers(0, 64, BLOCK) / 64  # ties, and mantissas at their ends
        picks = draw(st.lists(st.integers(0, BLOCK - 1), max_size=8))
        block[picks] = draw(st.sampled_from([0.0, -0.0, 2.0**low, -(2.0**low), block[0]]))
        made.append(np.clip(block, -limit(dtype) * 0.99, limit(dtype) * 0.99))
    return np.concatenate(made).astype(np.float32)


@pytest.mark.parametrize("encoding", LOSSY)
@pytest.mark.parametrize("dtype", WIDTH)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_number_is_further_off_than_stated(dtype, encoding, data):
    payload = raw(data.draw(numbers(dtype)), dtype)
    original = values(payload, dtype)
    decoded = values(there_and_back(payload, (Segment(dtype, len(payload)),), encoding), dtype)
    assert np.isfinite(decoded).all()
    worst = np.argmax(np.abs(decoded - original) - bound(original, dtype, encoding))
    assert abs(decoded[worst] - original[worst]) <= bound(original, dtype, encoding)[worst]
    assert not decoded[original == 0].any()


@pytest.mark.parametrize(
    ("dtype", "encoding"),
    [(dtype, Encoding.FP8) for dtype in WIDTH if dtype != "float16"] + [("float32", Encoding.INT8)],
)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_what_was_rounded_once_is_not_rounded_further(dtype, encoding, data):
    # Halved: a number next to the limit may be rounded up to it, and stays raw from then on.
    payload = raw(data.draw(numbers(dtype)) / 2, dtype)
    segments = (Segment(dtype, len(payload)),)
    once = there_and_back(payload, segments, encoding)
    twice = there_and_back(bytearray(once), segments, encoding)
    assert np.array_equal(values(once, dtype), values(twice, dtype))


def test_fp8_rounds_as_torch_does():
    torch = pytest.importorskip("torch")
    rows = np.random.default_rng(1).normal(0, 60, (4096, BLOCK)).astype(np.float32)
    rows *= np.exp2(np.random.default_rng(2).integers(-16, 1, rows.shape))
    rows = np.clip(rows, -448, 448)
    # 7-bit mantissas are full of ties.
    rows[::2] = values(raw(rows[::2], "bfloat16"), "bfloat16").reshape(-1, BLOCK)
    rows[:, 0] = 448  # a scale of 1
    expected = torch.from_numpy(rows).to(torch.float8_e4m3fn).float().numpy()
    payload = raw(rows, "float32")
    decoded = values(
        there_and_back(payload, (Segment("float32", len(payload)),), Encoding.FP8), "float32"
    )
    assert np.array_equal(decoded.reshape(rows.shape), expected)
    assert np.array_equal(np.signbit(decoded).reshape(rows.shape), np.signbit(expected))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_int8_stands_for_is_rounded_to_16_bits_as_torch_does(dtype):
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(7).normal(size=64 * BLOCK)
    payload = memoryview(raw(numbers, dtype))
    done = encode(payload, (Segment(dtype, len(payload)),), Encoding.INT8, payload)
    stored = bytes(payload[: done.stored_bytes])
    wide, narrow = bytearray(4 * numbers.size), bytearray(2 * numbers.size)
    for buffer, read_as in ((wide, "float32"), (narrow, dtype)):
        decode(
            memoryview(stored), (Segment(read_as, len(buffer)),), Encoding.INT8, memoryview(buffer)
        )
    expected = torch.frombuffer(wide, dtype=torch.float32).to(getattr(torch, dtype))
    assert torch.equal(torch.frombuffer(narrow, dtype=getattr(torch, dtype)), expected)


@pytest.mark.parametrize("encoding", LOSSY)
@pytest.mark.parametrize("dtype", WIDTH)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, "limit"])
def test_a_part_with_a_number_that_cannot_be_encoded_is_stored_raw(dtype, encoding, bad):
    array = np.random.default_rng(3).normal(size=4 * BLOCK).astype(np.float32)
    array[-5] = limit(dtype) if bad == "limit" else bad
    payload = raw(array, dtype)
    segments = (Segment(dtype, len(payload)),)
    frame = bytearray(payload)
    done = encode(memoryview(frame), segments, encoding, memoryview(frame))
    assert (done.encoding, done.stored_bytes) == (Encoding.RAW, len(payload))
    assert done.refused is not None
    assert dtype in done.refused
    assert frame == payload
    apart = bytearray(len(payload) + 7)
    assert encode(memoryview(payload), segments, encoding, memoryview(apart)) == done
    assert apart[: len(payload)] == payload
    array[-5] = limit(dtype) * 0.99
    there_and_back(raw(array, dtype), segments, encoding)


def test_only_bytes_that_are_encoded_are_asked_to_be_numbers():
    """The end of a segment that is no whole block stays as it is, NaN or not."""
    array = np.random.default_rng(4).normal(size=BLOCK + 3).astype(np.float32)
    array[-2] = np.nan
    payload = raw(array, "float32")
    decoded = there_and_back(payload, (Segment("float32", len(payload)),), Encoding.INT8)
    assert decoded[BLOCK * 4 :] == payload[BLOCK * 4 :]


def test_numbers_of_a_block_beside_a_large_one_keep_fp8_precision_but_not_int8():
    array = np.full(BLOCK, 0.01, np.float32)
    array[7] = 100.0
    segments = (Segment("float32", array.nbytes),)
    fp8 = values(there_and_back(raw(array, "float32"), segments, Encoding.FP8), "float32")
    int8 = values(there_and_back(raw(array, "float32"), segments, Encoding.INT8), "float32")
    assert np.allclose(fp8, array, rtol=1 / 16)
    assert int8[0] == 0.0


def test_segments_do_not_share_scales():
    small, large = np.full(BLOCK + 1, 1e-3, np.float32), np.full(BLOCK - 1, 1e3, np.float32)
    payload = raw(np.concatenate([small, large, small]), "float32")
    segments = tuple(Segment("float32", part.nbytes) for part in (small, large, small))
    decoded = values(there_and_back(payload, segments, Encoding.INT8), "float32")
    assert np.allclose(decoded, values(payload, "float32"), rtol=1e-6)


segment_lists = st.lists(
    st.builds(
        lambda dtype, count, extra: Segment(dtype, count * WIDTH.get(dtype, 1) + extra),
        st.sampled_from([*WIDTH, "float8_e4m3fn", OPAQUE]),
        st.one_of(st.integers(0, 3 * BLOCK), st.integers(CHUNK - 2, CHUNK + 2 * BLOCK)),
        st.just(0),
    ),
    max_size=6,
).map(tuple)


@pytest.mark.parametrize("encoding", Encoding)
@settings(max_examples=60, deadline=None)
@given(segments=segment_lists, seed=st.integers(0, 1000), offset=st.integers(0, 3))
def test_every_mixture_of_segments_is_restored_whether_in_place_or_apart(
    encoding, segments, seed, offset
):
    generator = np.random.default_rng(seed)
    payload, exact = bytearray(), np.zeros(0, bool)
    for dtype, size in segments:
        width = WIDTH.get(dtype)
        if width is None:
            payload += generator.bytes(size)
            exact = np.append(exact, np.ones(size, bool))
            continue
        payload += raw(generator.normal(size=size // width), dtype)
        whole = size // width // BLOCK * BLOCK * width
        exact = np.append(exact, np.arange(size) >= whole)

    apart = memoryview(bytearray(len(payload) + offset))[offset:]
    done = encode(memoryview(payload), segments, encoding, apart)
    assert done.refused is None
    in_place = memoryview(bytearray(offset) + payload)[offset:]
    assert encode(in_place, segments, encoding, in_place) == done
    assert in_place[: done.stored_bytes] == apart[: done.stored_bytes]

    restored = memoryview(bytearray(len(payload) + offset))[offset:]
    decode(apart[: done.stored_bytes], segments, done.encoding, restored)
    decode(in_place[: done.stored_bytes], segments, done.encoding, in_place)
    assert restored == in_place
    if done.encoding is Encoding.RAW:
        assert restored == payload
    kept = np.frombuffer(restored, np.uint8)[exact]
    assert np.array_equal(kept, np.frombuffer(payload, np.uint8)[exact])
    at = 0
    for dtype, size in segments:
        if dtype in WIDTH:
            theirs, ours = payload[at : at + size], bytes(restored[at : at + size])
            assert np.allclose(values(ours, dtype), values(theirs, dtype), rtol=1 / 15, atol=0.02)
        at += size


@pytest.mark.parametrize(("encoding", "ratio"), [(Encoding.FP8, 3.969), (Encoding.INT8, 3.878)])
def test_float32_takes_about_a_quarter(encoding, ratio):
    payload = memoryview(bytearray(PART_BYTES))
    done = encode(payload, (Segment("float32", PART_BYTES),), encoding, payload)
    assert PART_BYTES / done.stored_bytes == pytest.approx(ratio, abs=1e-3)


def test_a_part_without_numbers_to_shrink_is_stored_raw_without_a_complaint():
    payload = bytearray(b"\xff" * 400)
    segments = (Segment("float8_e4m3fn", 300), Segment("float32", 100))
    for encoding in LOSSY:
        done = encode(memoryview(payload), segments, encoding, memoryview(payload))
        assert done == (Encoding.RAW, 400, None)


@pytest.mark.parametrize("header_byte", [3, 200, 255])
def test_an_encoding_of_another_version_is_refused_by_name(header_byte):
    frame = bytearray(b"\x01" * 512)
    with pytest.raises(UnknownEncoding, match=f"encoding {header_byte} is not known"):
        decode(memoryview(frame), (Segment("float32", 512),), header_byte, memoryview(frame))
    assert frame == b"\x01" * 512
    assert issubclass(UnknownEncoding, CorruptObject)


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("change", [-1, 1])
def test_stored_bytes_of_another_size_are_refused(encoding, change):
    segments = (Segment("float32", 1024),)
    payload = memoryview(bytearray(1024))
    size = encode(payload, segments, encoding, payload).stored_bytes
    frame = bytearray(b"\x01" * 1025)
    stored = memoryview(frame)[: size + change]
    with pytest.raises(CorruptObject, match="not loaded"):
        decode(stored, segments, encoding, memoryview(frame))
    assert frame == b"\x01" * 1025


def test_a_payload_that_is_not_the_layouts_is_a_mistake_of_the_caller():
    segments, frame = (Segment("float32", 1024),), memoryview(bytearray(1024))
    with pytest.raises(ValueError, match="payload has 1020 bytes where the layout has 1024"):
        encode(frame[:1020], segments, Encoding.INT8, frame)
    with pytest.raises(ValueError, match="buffer has 1000 bytes"):
        encode(frame, segments, Encoding.INT8, memoryview(bytearray(1000)))
    with pytest.raises(ValueError, match="buffer has 1000 bytes"):
        decode(frame[:264], segments, Encoding.INT8, memoryview(bytearray(1000)))


@pytest.mark.parametrize(
    ("dtype", "encoding", "digest"),
    [
        ("float32", Encoding.FP8, "7f85ed132b9b189e"),
        ("bfloat16", Encoding.FP8, "96555aef4fad5946"),
        ("float32", Encoding.INT8, "1845d68235f266f5"),
        ("float16", Encoding.INT8, "c00c2b2ab809061b"),
    ],
)
def test_the_stored_form_never_changes(dtype, encoding, digest):
    """Objects outlive versions: another form needs another number in `Encoding`."""
    scrambled = np.arange(CHUNK + 2 * BLOCK + 5) * 40503 % 65536 - 32768
    payload = raw(scrambled / 97, dtype)
    first, second = 2 * BLOCK * WIDTH[dtype], (BLOCK + 1) * WIDTH[dtype]
    segments = tuple(
        Segment(dtype, size) for size in (first, second, len(payload) - first - second)
    )
    done = encode(memoryview(payload), segments, encoding, memoryview(payload))
    assert hashlib.sha256(payload[: done.stored_bytes]).hexdigest()[:16] == digest


def test_threads_do_not_share_working_memory():
    def turn_around(seed: int) -> None:
        payload = raw(np.random.default_rng(seed).normal(size=8 * BLOCK), "float32")
        segments = (Segment("float32", len(payload)),)
        first = there_and_back(payload, segments, Encoding.INT8)
        for _ in range(200):
            if there_and_back(payload, segments, Encoding.INT8) != first:
                wrong.append(seed)

    wrong: list[int] = []
    threads = [threading.Thread(target=turn_around, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.sampled_from([*WIDTH, "uint8"]), st.integers(1, 3 << 20)), max_size=6
    )
)
def test_parts_cover_the_payload_in_order_and_never_divide_a_number(sizes):
    layout = PayloadLayout(tuple(Segment(d, n * WIDTH.get(d, 1)) for d, n in sizes))
    assert sum(s.bytes for part in layout.parts for s in part) == layout.payload_bytes
    assert all(sum(s.bytes for s in part) == PART_BYTES for part in layout.parts[:-1])
    assert len(layout.parts) == max(1, -(-layout.payload_bytes // PART_BYTES))
    starts, at = [], 0
    for dtype, size in layout.segments:
        starts.append((at, at + size, dtype))
        at += size
    at = 0
    for part in layout.parts:
        for dtype, size in part:
            if dtype in WIDTH:
                begin = next(low for low, high, d in starts if low <= at < high and d == dtype)
                assert (at - begin) % WIDTH[dtype] == 0
                assert size % WIDTH[dtype] == 0
            at += size


def test_a_number_that_a_cut_divides_is_kept_to_the_bit():
    size = 2 * PART_BYTES - 1024
    layout = PayloadLayout((Segment("bfloat16", 2 * BLOCK + 2), Segment("float32", size)))
    numbers = np.random.default_rng(6).normal(size=size // 4)
    payload = raw(np.ones(BLOCK + 1), "bfloat16") + raw(numbers, "float32")
    restored, at = bytearray(), 0
    for part in layout.parts:
        size = sum(segment.bytes for segment in part)
        restored += there_and_back(payload[at : at + size], part, Encoding.INT8)
        at += size
    assert [s for s in layout.parts[0] if s.dtype == OPAQUE] == [Segment(OPAQUE, 2)]
    assert [s for s in layout.parts[1] if s.dtype == OPAQUE] == [Segment(OPAQUE, 2)]
    assert restored[PART_BYTES - 2 : PART_BYTES + 2] == payload[PART_BYTES - 2 : PART_BYTES + 2]
    decoded = values(restored[2 * BLOCK + 2 :], "float32")
    assert np.abs(decoded - numbers).max() < np.abs(numbers).max() / 250


def test_an_economy_class_says_how_each_kind_is_stored():
    assert not economy_named(LOSSLESS).lossy
    assert all(economy.lossy for name, economy in ECONOMIES.items() if name != LOSSLESS)
    for kind, other in (("kv", "state"), ("state", "kv")):
        named = [e for name, e in ECONOMIES.items() if name.startswith(kind)]
        assert named
        assert all(e.encoding(other) is Encoding.RAW for e in named)
    assert all(e is not Encoding.RAW for e in map(ECONOMIES["compact"].encoding, ("kv", "state")))


def test_an_unknown_economy_class_is_refused_with_the_known_ones():
    with pytest.raises(UnknownEconomy, match="'zip' is not an economy class; use one of lossless"):
        economy_named("zip")
