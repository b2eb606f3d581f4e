"""Values that nothing can hold are found in any body, and cost nothing where there are none."""

import json
import math
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_runtime.service.json_values import flaw_of

TEXT = st.text(st.sampled_from('\\"[]ud8cNaI 0129e+-.')) | st.text()
NUMBERS = (
    st.integers(-(1 << 65), 1 << 65)
    | st.floats()
    | st.sampled_from([1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), -(1 << 63) - 1, 10**400])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
HALVES = st.sampled_from(["\\ud83d", "\\ude00", "\\uD83D", "\\uDE00", "\\\\", '\\"', "ud83d", "x"])


class Flawed(Exception):
    pass


def is_held(body):
    """As Python's own reader finds it, number by number."""

    def whole(text):
        if not -(1 << 63) <= int(text) < 1 << 64:
            raise Flawed
        return int(text)

    def other(text):
        if not math.isfinite(float(text)):
            raise Flawed
        return float(text)

    try:
        read = json.loads(body, parse_int=whole, parse_float=other, parse_constant=other)
        json.dumps(read, ensure_ascii=False).encode()
    except (Flawed, UnicodeEncodeError):
        return False
    return True


@given(value=VALUES, is_ascii=st.booleans())
@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@example(value=[1e300, "1e999", "NaN", 5], is_ascii=True)
@example(value={"-12345678901234567890": -0.12345678901234567890}, is_ascii=True)
def test_a_flaw_is_found_wherever_it_is_and_nowhere_else(value, is_ascii):
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert (flaw_of(body) is None) is is_held(body)


@given(pieces=st.lists(HALVES, max_size=6))
@settings(derandomize=True, database=None, deadline=None, max_examples=200)
def test_halves_of_characters_are_told_from_whole_ones(pieces):
    body = f'["{"".join(pieces)}"]'.encode()
    assert (flaw_of(body) is None) is is_held(body)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        ("NaN", "NaN"),
        ("-Infinity", "Infinity"),
        ("1e999", "a number beyond"),
        ("-1.5E+400", "a number beyond"),
        ("1" * 400 + ".0", "a number beyond"),
        ("1" * 5000, "a whole number beyond"),
        ("-9223372036854775809", "a whole number beyond"),
    ],
)
def test_what_was_found_is_told(number, what):
    assert what in flaw_of(f'{{"a": [1, {number}]}}'.encode())


@pytest.mark.parametrize("number", ["0." + "1" * 400, "1e-999", "0." + "0" * 400 + "1e300"])
def test_a_long_number_is_not_a_large_one(number):
    assert flaw_of(f"[{number}]".encode()) is None


@pytest.mark.parametrize("one", ["1e+100", "NaN", "\\ud83d\\ude00", "1234567890123456789"])
def test_one_suspicious_value_makes_the_others_no_dearer(one):
    """By calls of functions; Python's reader with its own reading of numbers makes one for each."""
    body = f'["{one}", {one if one[0] == "1" else 0}{", 1, 1.5" * 100_000}]'.encode()
    assert calls_in(body) < 100


@pytest.mark.parametrize("one", ["1e+100", "-0.12345678901234567890", "1234567890123456789"])
def test_many_suspicious_numbers_are_not_looked_at_one_by_one(one):
    assert calls_in(f"[{one}{f', {one}' * 100_000}]".encode()) < 300


def calls_in(body):
    """Of functions, to find that it has no flaw."""
    calls = 0

    def count(frame, event, function):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        flaw = flaw_of(body)
    finally:
        sys.setprofile(None)
    assert flaw is None
    return calls


@pytest.mark.parametrize(
    "flaw", ["1e999", "-1e999", "18446744073709551616", "-9223372036854775809"]
)
@pytest.mark.parametrize("before", range(0, 24, 5))
def test_a_flaw_is_found_behind_many_values_and_words(flaw, before):
    """Wherever blocks of the body are cut."""
    filled = "[" + "true, false, null, 1e+100, " * 10_000 + " " * before
    for place in (0, 9_700, 9_709, 10_000):
        words = filled[: place * 27 + 1] + f"{flaw}, " + filled[place * 27 + 1 :]
        assert flaw_of(f"{words}0]".encode()) is not None
    assert flaw_of(f"{filled}0]".encode()) is None
