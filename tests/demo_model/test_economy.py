"""What the demo model makes of its own state after a sleep in the store, in each economy class."""

import numpy as np
import pytest

from agent_runtime.bench.demo_state import (
    PAGE,
    Conversation,
    conversations,
    pages_of,
    round_state,
    state_of,
    there_and_back,
)
from agent_runtime.bench.losses import logits_after
from engine.demo_model.architecture import Architecture
from engine.demo_model.oracle import Oracle, Reading
from state_store.encodings import ECONOMIES, Encoding


@pytest.fixture(scope="module")
def told(oracle: Oracle) -> tuple[Conversation, Reading]:
    """A conversation, and a reading up to its boundary."""
    (conversation,) = conversations(oracle, tokens=1024, after=160, count=1)
    return conversation, oracle.start().read(conversation.ids[: conversation.boundary])


@pytest.fixture(scope="module")
def exact(told) -> np.ndarray:
    conversation, reading = told
    return logits_after(reading, conversation, None, every_page=False)


def test_the_boundary_is_a_page_and_answers_come_after_it(told):
    conversation, reading = told
    assert conversation.boundary % PAGE == 0
    assert reading.tokens == conversation.boundary
    assert any(conversation.is_answer[conversation.boundary :])


def test_lossless_sleep_changes_no_logit(told, exact):
    conversation, reading = told
    lossless = logits_after(reading, conversation, ECONOMIES["lossless"], every_page=True)
    assert np.array_equal(lossless, exact)


@pytest.mark.parametrize("every_page", [False, True])
@pytest.mark.parametrize("name", [name for name, e in ECONOMIES.items() if e.lossy])
def test_a_lossy_sleep_changes_logits_a_little_and_no_answer(told, exact, name, every_page):
    conversation, reading = told
    rounded = logits_after(reading, conversation, ECONOMIES[name], every_page=every_page)
    error = np.abs(rounded - exact)
    assert 0 < error.mean() < exact.std() / 20
    asked = np.array([*conversation.is_answer[conversation.boundary + 1 :], False])
    assert np.array_equal(rounded[asked].argmax(axis=1), exact[asked].argmax(axis=1))


def test_state_of_another_place_gives_other_answers(told, exact):
    """The comparison can fail: what is rounded is what the answers come from."""
    conversation, reading = told
    cleared = reading.fork().clear_state()
    wrong = logits_after(cleared, conversation, ECONOMIES["lossless"], every_page=False)
    asked = np.array([*conversation.is_answer[conversation.boundary + 1 :], False])
    assert (wrong[asked].argmax(axis=1) != exact[asked].argmax(axis=1)).any()


def test_only_what_a_class_names_is_rounded(told):
    _, reading = told
    for kind, untouched in (("kv", state_of), ("state", pages_of)):
        twin = reading.fork()
        encodings = {"kv": Encoding.RAW, "state": Encoding.RAW} | {kind: Encoding.INT8}
        round_state(twin, encodings)
        touched = pages_of if kind == "kv" else state_of
        assert np.array_equal(untouched(twin).rows, untouched(reading).rows)
        assert not np.array_equal(touched(twin).rows, touched(reading).rows)


def test_payloads_have_the_segments_that_the_engine_stores(told):
    """K and V of each attention layer; SSM and convolution of each Mamba layer."""
    _, reading = told
    shape = Architecture()
    page = PAGE * shape.num_key_value_heads * shape.head_dim * 4
    ssm = shape.mamba_width * shape.ssm_state_size * 4
    pages, state = pages_of(reading), state_of(reading)
    assert [s.bytes for s in pages.layout.segments] == [page] * 2 * shape.pattern.count("*")
    assert len(pages.rows) == reading.tokens // PAGE
    assert [s.bytes for s in state.layout.segments][::2] == [ssm] * shape.pattern.count("M")
    assert all(s.bytes % (shape.conv_width * 4) == 0 for s in state.layout.segments[1::2])


@pytest.mark.parametrize("encoding", [Encoding.FP8, Encoding.INT8])
def test_real_state_is_never_refused(told, encoding):
    _, reading = told
    for payloads in (pages_of(reading), state_of(reading)):
        for row in payloads.rows:
            assert there_and_back(row, payloads.layout, encoding).encoding is encoding
