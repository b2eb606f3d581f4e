"""`torpor bench savers` on a short thread."""

import asyncio
import json
import time

from agent_runtime.bench.savers import _Clock, _timed
from agent_runtime.cli import main

SAVERS = ["torpor", "plainredis", "sqlite", "memory"]
MEASURED = ("put_ms_last", "get_ms_last", "bytes_per_turn")


def test_every_saver_is_measured_on_the_same_thread_and_losses_are_told(tmp_path, capsys):
    assert main(["bench", "savers", "--turns", "64", "--data", str(tmp_path)]) == 0
    told = capsys.readouterr()
    _, *records, goal = map(json.loads, told.out.splitlines())
    for channel in ("whole", "delta"):
        ours, *peers = [one for one in records if one["channel"] == channel]
        assert [one["saver"] for one in (ours, *peers)] == SAVERS
        assert all(one[name] > 0 for one in (ours, *peers) for name in MEASURED)
        behind = [(name, p["saver"]) for name in MEASURED for p in peers if ours[name] > p[name]]
        losses = [one.split() for one in goal["loses"] if f" {channel} " in one]
        assert [(words[0], words[2]) for words in losses] == behind
        if channel == "whole":  # messages are stored once
            assert ours["bytes_per_turn"] < min(one["bytes_per_turn"] for one in peers)
            assert ours["bytes_exponent"] < 1.2
    assert goal["met"] is (not goal["loses"])
    assert told.err.count("loses: ") == len(goal["loses"])


async def test_calls_at_the_same_time_count_once_and_calls_in_turn_both():
    async def put():
        await asyncio.sleep(0.05)

    clock = _Clock([0.0])
    timed = _timed(put, clock)
    started = time.perf_counter()
    await asyncio.gather(timed(), timed())
    assert clock.spent[-1] <= time.perf_counter() - started
    together = clock.spent[-1]
    await timed()
    assert clock.spent[-1] > together
