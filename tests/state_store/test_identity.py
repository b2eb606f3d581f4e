"""Page hashes are SGLang's own, computed by SGLang itself in a process beside this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state_store.identity import page_hashes

ROOT = Path(__file__).parents[2]
HISTORIES = st.lists(st.integers(0, 2**32 - 1), max_size=70)
SALTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def sglang_hashes():
    """SGLang's `get_storage_hash_str` over the whole pages of a history."""
    environment = os.environ | {
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TORCH_EXTENSIONS_DIR": str(ROOT / ".torpor" / "torch_extensions"),
    }
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("sglang_hashes.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:

        def ask(tokens, page_size, *, salt, bigram, prior=None):
            case = {"tokens": list(tokens), "page_size": page_size, "salt": salt}
            process.stdin.write(json.dumps(case | {"bigram": bigram, "prior": prior}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.kill()  # ending by itself takes SGLang seconds


@given(tokens=HISTORIES, page_size=st.integers(1, 16), salt=SALTS, bigram=st.booleans())
@settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_hashes_equal_those_of_sglang(sglang_hashes, tokens, page_size, salt, bigram):
    ours = page_hashes(tokens, page_size, salt=salt, bigram=bigram)
    assert ours == sglang_hashes(tokens, page_size, salt=salt, bigram=bigram)


@given(tokens=HISTORIES, page_size=st.integers(1, 8), bigram=st.booleans(), cut=st.integers(0, 70))
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_chain_continued_from_a_page_equals_the_chain_computed_at_once(
    sglang_hashes, tokens, page_size, bigram, cut
):
    whole = page_hashes(tokens, page_size, salt="s", bigram=bigram)
    first = min(cut, len(whole))
    prior = whole[first - 1] if first else None
    rest = tokens[first * page_size :]
    assert page_hashes(rest, page_size, salt="s", bigram=bigram, prior=prior) == whole[first:]
    if prior is not None:
        theirs = sglang_hashes(rest, page_size, salt="s", bigram=bigram, prior=prior)
        assert theirs == whole[first:]


@given(tokens=st.lists(st.integers(0, 9), min_size=8, max_size=40), at=st.integers(0, 39))
@settings(deadline=None, database=None)
def test_a_changed_token_changes_its_page_and_all_after_it(tokens, at):
    at %= len(tokens)
    changed = [*tokens[:at], tokens[at] + 1, *tokens[at + 1 :]]
    before = page_hashes(tokens, 4, salt="s", bigram=False)
    after = page_hashes(changed, 4, salt="s", bigram=False)
    assert before[: at // 4] == after[: at // 4]
    assert all(a != b for a, b in zip(before[at // 4 :], after[at // 4 :], strict=True))


def test_a_page_of_bigrams_is_complete_only_with_the_token_after_it():
    assert page_hashes([1, 2, 3, 4], 4, salt="s", bigram=True) == []
    after_5 = page_hashes([1, 2, 3, 4, 5], 4, salt="s", bigram=True)
    after_6 = page_hashes([1, 2, 3, 4, 6], 4, salt="s", bigram=True)
    assert len(after_5) == len(after_6) == 1
    assert after_5 != after_6


def test_tenants_never_share_the_name_of_a_page():
    ours = page_hashes([1, 2, 3, 4], 2, salt="one", bigram=False)
    assert not set(ours) & set(page_hashes([1, 2, 3, 4], 2, salt="two", bigram=False))


@pytest.mark.parametrize("make", [list, lambda ids: array("q", ids), np.array])
@pytest.mark.parametrize("bad", [-1, 2**32])
def test_an_id_that_does_not_fit_is_refused_in_any_container(make, bad):
    with pytest.raises(OverflowError):
        page_hashes(make([1, bad]), 2, salt="s", bigram=False)


def test_the_container_of_the_ids_does_not_matter():
    ids = [1, 2**31, 2**32 - 1, 0]
    expected = page_hashes(ids, 2, salt="s", bigram=False)
    for same in (array("I", ids), array("q", ids), np.array(ids), np.array(ids, dtype=np.uint32)):
        assert page_hashes(same, 2, salt="s", bigram=False) == expected


def test_an_empty_salt_is_refused_because_sglang_would_take_it_for_none():
    with pytest.raises(ValueError, match="salt"):
        page_hashes([1, 2], 2, salt="", bigram=False)
