"""API keys: which can be made."""

import json
import math

import pytest

from agent_runtime.cli import main
from state_store.errors import InvalidKeyLimits


@pytest.mark.parametrize(
    "limits",
    [{"expires_in": seconds} for seconds in (math.nan, math.inf, -1.0, 0.0)]
    + [{"per_minute": number} for number in (0, -3)],
)
async def test_a_key_that_would_never_be_good_or_never_end_is_not_made(store, limits):
    before = await store.keys.of("keyed")
    with pytest.raises(InvalidKeyLimits, match="none was made"):
        await store.keys.create("keyed", **limits)
    assert await store.keys.of("keyed") == before
    _, text = await store.keys.create("keyed", expires_in=60.0, per_minute=1)
    assert await store.keys.verified(text) is not None


@pytest.mark.parametrize(
    "words", ["--days nan", "--days inf", "--days -1", "--days 0", "--per-minute 0"]
)
def test_the_command_says_so_and_prints_no_key(own_server, capsys, words):
    at = ["--redis", own_server.url, "--tenant", "acme"]
    assert main(["keys", "create", *at, *words.split()]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "none was made" in printed.err
    assert main(["keys", "create", *at, "--days", "1", "--per-minute", "5"]) == 0
    capsys.readouterr()
    assert main(["keys", "list", *at]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["expires_at"] == pytest.approx(row["created_at"] + 86400)
