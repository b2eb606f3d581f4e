"""How deep a body nests is told at once, whatever is in it."""

import json
import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.service import nesting
from agent_runtime.service.nesting import is_within

TEXT = st.text(st.sampled_from('\\"[]{}a,')) | st.text()
VALUES = st.recursive(
    st.none() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


def depth_of(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(value=VALUES, block=st.integers(1, 9))
@settings(derandomize=True, database=None, deadline=None)
def test_depth_is_that_of_the_values_wherever_the_text_is_cut(value, block):
    text, depth = json.dumps(value, ensure_ascii=False).encode(), depth_of(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "_BLOCK", block)
        assert is_within(text, depth)
        assert not depth or not is_within(text, depth - 1)


@pytest.mark.parametrize(
    "piece", [b'\\"', b"\\\\", b"x", b'"', b'"[",', b"[],", b'["[",'], ids=bytes.decode
)
def test_a_text_that_never_ends_is_read_once(piece):
    text = b'{"a":[' + b"[]," * 65 + b'"' + piece * ((128 << 10) // len(piece))
    began = time.process_time()
    is_within(text, len(text))
    assert time.process_time() - began < 5  # milliseconds; two minutes if each quote is a new try


def test_a_long_text_takes_no_memory_to_speak_of():
    text = b'["' + b"x" * (32 << 20) + b'"]'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert is_within(text, 1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 64 << 10  # KiB
