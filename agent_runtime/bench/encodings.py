"""`torpor bench encodings`: what fewer stored bytes save, and what they cost.

store        bandwidth of an embedded server over its socket: what all else is compared with
encoding     each encoding of an economy class on real state: bytes, speed, error
compression  byte planes and zstd on the same state: whether lossless compression would pay
loss         what each economy class does to the answers, see `losses.py`
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from agent_runtime.bench import losses
from agent_runtime.bench.demo_state import Payloads, conversations, load, pages_of, state_of
from engine.demo_model.oracle import Oracle
from state_store.embedded import EmbeddedServer
from state_store.encodings import (
    ECONOMIES,
    Encoding,
    PayloadLayout,
    Segment,
    decode,
    encode,
)
from state_store.layout import PART_BYTES, Kind
from state_store.objects import ObjectClient

_ROUNDS = 5  # the fastest counts: others were disturbed
_LEVEL = 1  # of zstd; higher ones are slower here and gain nothing
_TOKENS, _STATE_EVERY = 8192, 256  # of the conversation whose state is measured
_WIDTH = {"float32": 4, "bfloat16": 2}


def measure(model: Path) -> Iterator[dict[str, Any]]:
    """The records, as they are measured. model: the demo model's directory."""
    oracle = load(model)
    store = store_bandwidth()
    yield store
    for kind, payloads in real_payloads(oracle).items():
        for dtype in _WIDTH:
            layout, rows = in_one_part(payloads, dtype)
            payload = rows.reshape(-1).data
            for encoding in sorted({e.encoding(kind) for e in ECONOMIES.values()}):
                if encoding is not Encoding.RAW:
                    yield {
                        "measure": "encoding", "kind": kind, "dtype": dtype,
                        **_encoding(payload, layout, encoding, dtype),
                    }  # fmt: skip
            yield {
                "measure": "compression", "kind": kind, "dtype": dtype,
                **_compression(rows, dtype, store),
            }  # fmt: skip
    yield from losses.measure(oracle)


def store_bandwidth() -> dict[str, Any]:
    """GB/s of parts over one connection to an embedded server, into touched memory."""
    parts = np.random.default_rng(0).integers(0, 256, (16, PART_BYTES), np.uint8)
    items = [(b"bench:%d" % index, memoryview(part)) for index, part in enumerate(parts)]
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder)) as server,
    ):
        client = ObjectClient(server.url, timeout=30.0)
        put = _fastest(lambda: client.put(items, ttl=600), rounds=1)
        get = _fastest(lambda: client.get_into(items))
        client.close()
    return {
        "measure": "store",
        "value_bytes": PART_BYTES,
        "put_gb_s": _rate(parts.nbytes, put),
        "get_gb_s": _rate(parts.nbytes, get),
    }


def real_payloads(oracle: Oracle) -> dict[Kind, Payloads]:
    """Pages and states from the course of a conversation, at most 4 MiB of each."""
    (conversation,) = conversations(oracle, tokens=_TOKENS, after=0, count=1)
    reading, states = oracle.start(), []
    for start in range(0, conversation.boundary, _STATE_EVERY):
        reading.read(conversation.ids[start : start + _STATE_EVERY])
        states.append(state_of(reading))
    state = Payloads(states[0].layout, np.concatenate([one.rows for one in states]))
    return {"kv": _first(pages_of(reading)), "state": _first(state)}


def in_one_part(payloads: Payloads, dtype: str) -> tuple[PayloadLayout, NDArray[np.uint8]]:
    """(layout of all of them as one payload, uint8[payloads, bytes]) in another dtype."""
    rows: NDArray[Any] = payloads.rows
    if dtype == "bfloat16":
        bits = rows.view(np.uint32)
        rows = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    segments = tuple(
        Segment(dtype, segment.bytes // 4 * _WIDTH[dtype]) for segment in payloads.layout.segments
    )
    return PayloadLayout(segments * len(rows)), rows.view(np.uint8)


def _first(payloads: Payloads) -> Payloads:
    count = PART_BYTES // payloads.layout.payload_bytes
    return Payloads(payloads.layout, np.ascontiguousarray(payloads.rows[:count]))


def _encoding(
    payload: memoryview, layout: PayloadLayout, encoding: Encoding, dtype: str
) -> dict[str, Any]:
    (segments,) = layout.parts
    stored, back = memoryview(bytearray(len(payload))), memoryview(bytearray(len(payload)))
    done = encode(payload, segments, encoding, stored)
    kept = stored[: done.stored_bytes]
    encoding_s = _fastest(lambda: encode(payload, segments, encoding, stored))
    decoding_s = _fastest(lambda: decode(kept, segments, done.encoding, back))
    exact, rounded = _floats(payload, dtype), _floats(back, dtype)
    return {
        "encoding": done.encoding.name.lower(),
        "ratio": round(len(payload) / done.stored_bytes, 3),
        "encode_gb_s": _rate(len(payload), encoding_s),
        "decode_gb_s": _rate(len(payload), decoding_s),
        "relative_rms_error": round(
            float(np.sqrt(np.mean((exact - rounded) ** 2) / np.mean(exact**2))), 5
        ),
        "max_error": round(float(np.abs(exact - rounded).max()), 5),
        "max_magnitude": round(float(np.abs(exact).max()), 3),
    }


def _compression(payloads: NDArray[np.uint8], dtype: str, store: dict[str, Any]) -> dict[str, Any]:
    """Bytes of equal weight together, then zstd: the usual way to compress floats losslessly.

    payloads: uint8[payloads, bytes], each compressed by itself as each is stored by itself.
    It saves time only on a way slower than `pays_*_below_gb_s`: 1 - 1/ratio of the bytes are not
    moved, and all are compressed or decompressed. `pays` says so of the measured store.
    """
    squeeze, expand = zstandard.ZstdCompressor(_LEVEL), zstandard.ZstdDecompressor()
    width = _WIDTH[dtype]

    def compress() -> list[bytes]:
        return [
            squeeze.compress(np.ascontiguousarray(payload.reshape(-1, width).T).data)
            for payload in payloads
        ]

    def decompress() -> list[NDArray[np.uint8]]:
        planes = (np.frombuffer(expand.decompress(one), np.uint8) for one in packed)
        return [np.ascontiguousarray(one.reshape(width, -1).T).reshape(-1) for one in planes]

    packed = compress()
    if not np.array_equal(np.stack(decompress()), payloads):
        raise AssertionError("what was compressed did not come back")
    ratio = payloads.nbytes / sum(map(len, packed))
    record = {"compression": f"byte planes, zstd level {_LEVEL}", "ratio": round(ratio, 3)}
    pays = False
    for name, way, action in (("compress", "put", compress), ("decompress", "get", decompress)):
        rate = payloads.nbytes / _fastest(action) / 1e9
        limit = rate * (1 - 1 / ratio)
        record |= {f"{name}_gb_s": round(rate, 3), f"{way}_pays_below_gb_s": round(limit, 3)}
        pays = pays or store[f"{way}_gb_s"] < limit
    return record | {"pays": pays}


def _floats(payload: memoryview, dtype: str) -> NDArray[np.float64]:
    if dtype == "float32":
        return np.frombuffer(payload, np.float32).astype(np.float64)
    bits = np.frombuffer(payload, np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64)


def _fastest(action: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """Seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def _rate(size: int, seconds: float) -> float:
    return round(size / seconds / 1e9, 3)
