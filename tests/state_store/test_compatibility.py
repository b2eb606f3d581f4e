"""When an engine may go on from stored state, and what it is told when it may not."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from state_store.compatibility import compatibility
from state_store.encodings import ECONOMIES, LOSSLESS, Encoding, Segment
from state_store.fingerprint import Fingerprint

STORED = Fingerprint(
    weights="weights of a", architecture="NemotronH a", tokenizer="tokenizer of a",
    kv_dtype="bfloat16", conv_dtype="bfloat16", ssm_dtype="float32", page_size=64,
    kv_payload_bytes=4096, state_payload_bytes=6144,
    kv_segments=(Segment("bfloat16", 2048), Segment("bfloat16", 2048)),
    state_segments=(Segment("float32", 4096), Segment("bfloat16", 2048)),
    tp_size=2, draft="none", bigram=False, engine="sglang 1, state format 1",
)  # fmt: skip

# What differs in the engine, what is decided, and the fields that must be named for it.
CHANGES = {
    "nothing": ({}, "reuse"),
    "other weights, same tokenizer": ({"weights": "b"}, "refuse"),
    "other model of the same family": ({"weights": "b", "architecture": "b"}, "refuse"),
    "other tokenizer": ({"tokenizer": "b"}, "refuse"),
    "other model altogether": ({"weights": "b", "architecture": "b", "tokenizer": "b"}, "refuse"),
    "fp8 KV": (
        {
            "kv_dtype": "float8_e4m3fn",
            "kv_payload_bytes": 2048,
            "kv_segments": (Segment("uint8", 1024), Segment("uint8", 1024)),
        },
        "reprefill",
    ),
    "the other fp8": ({"kv_dtype": "float8_e5m2"}, "reprefill"),
    "bfloat16 SSM state": (
        {
            "ssm_dtype": "bfloat16",
            "state_payload_bytes": 4096,
            "state_segments": (Segment("bfloat16", 2048), Segment("bfloat16", 2048)),
        },
        "reprefill",
    ),
    "conv before SSM": (
        {"state_segments": (Segment("bfloat16", 2048), Segment("float32", 4096))},
        "reprefill",
    ),
    "K and V as one": ({"kv_segments": (Segment("bfloat16", 4096),)}, "reprefill"),
    "float32 convolution": ({"conv_dtype": "float32"}, "reprefill"),
    "other page size": ({"page_size": 32}, "reprefill"),
    "four ranks": ({"tp_size": 4}, "reprefill"),
    "speculation switched on": ({"draft": "mtp:1", "bigram": True}, "reprefill"),
    "engine upgraded": ({"engine": "sglang 2, state format 1"}, "reprefill"),
}
OTHER = {name: value for changes, _ in CHANGES.values() for name, value in changes.items()}
SIZED = {
    "kv": ("kv_payload_bytes", "kv_segments"),
    "state": ("state_payload_bytes", "state_segments"),
}
THE_MODEL = {"weights", "architecture", "tokenizer"}


def changed(**changes) -> Fingerprint:
    """STORED but for `changes`; unchecked, so that one field of a pair can differ alone."""
    return Fingerprint.model_construct(**(dict(STORED) | changes))


@pytest.mark.parametrize(("changes", "verdict"), CHANGES.values(), ids=list(CHANGES))
def test_the_decision_and_every_field_that_led_to_it(changes, verdict):
    engine = Fingerprint.model_validate(STORED.model_dump() | changes)
    decision = compatibility(STORED, engine)
    assert decision.verdict == verdict
    assert [(r.field, r.stored, r.engine) for r in decision.reasons] == [
        (field, getattr(STORED, field), changes[field])
        for field in Fingerprint.model_fields
        if field in changes
    ]


def test_the_table_changes_every_field():
    assert set(OTHER) == set(Fingerprint.model_fields)


@pytest.mark.parametrize("field", Fingerprint.model_fields)
def test_a_single_field_that_differs_prevents_reuse_and_is_named(field):
    decision = compatibility(STORED, changed(**{field: OTHER[field]}))
    assert [reason.field for reason in decision.reasons] == [field]
    (reason,) = decision.reasons
    assert decision.verdict == reason.verdict == ("refuse" if field in THE_MODEL else "reprefill")
    assert len(reason.why) > 30
    assert changed(**{field: OTHER[field]}).id != STORED.id


@given(st.sets(st.sampled_from(sorted(OTHER))), st.sets(st.sampled_from(sorted(OTHER))))
def test_state_is_reused_exactly_if_the_fingerprints_are_equal(stored_changes, engine_changes):
    stored = changed(**{field: OTHER[field] for field in stored_changes})
    engine = changed(**{field: OTHER[field] for field in engine_changes})
    decision = compatibility(stored, engine)
    assert (decision.verdict == "reuse") == (stored == engine) == (stored.id == engine.id)
    assert {reason.field for reason in decision.reasons} == stored_changes ^ engine_changes
    assert (decision.verdict == "refuse") == bool(THE_MODEL & (stored_changes ^ engine_changes))
    reverse = compatibility(engine, stored)
    assert reverse.verdict == decision.verdict


def test_a_difference_names_the_field_and_both_values_and_cuts_long_ones():
    differences = [
        reason.difference
        for reason in compatibility(STORED, changed(tp_size=4, tokenizer="b" * 64)).reasons
    ]
    assert differences == [
        f"tokenizer: stored tokenizer of a, engine {'b' * 45}...",
        "tp_size: stored 2, engine 4",
    ]


def test_a_fingerprint_goes_through_json_and_msgpack_unchanged():
    assert Fingerprint.model_validate_json(STORED.model_dump_json()) == STORED
    packed = msgpack.packb(STORED.model_dump(mode="json"))
    back = Fingerprint.model_validate(msgpack.unpackb(packed))
    assert back == STORED
    assert back.id == STORED.id
    assert back.layout("state").parts == ((Segment("float32", 4096), Segment("bfloat16", 2048)),)


@pytest.mark.parametrize("kind", SIZED)
def test_segments_that_do_not_make_up_the_payload_are_refused(kind):
    size, segments = SIZED[kind]
    fields = STORED.model_dump()
    for change in ({size: fields[size] + 2}, {segments: fields[segments][:1]}, {segments: ()}):
        with pytest.raises(ValidationError, match=f"the {kind} segments have"):
            Fingerprint.model_validate(fields | change)


def test_classes_differ_in_what_they_store():
    stored = {(e.kv, e.state) for e in ECONOMIES.values()}
    assert len(stored) == len(ECONOMIES)
    assert ECONOMIES[LOSSLESS].encoding("kv") is Encoding.RAW
