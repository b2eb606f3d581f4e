"""`torpor simulate` replays every turn once, and tells policies apart."""

import json

import pytest

from agent_runtime.cli import main
from agent_runtime.policies import POLICIES, LeastRecentlyUsed, ToolTime
from agent_runtime.scheduling import trace
from agent_runtime.scheduling.queues import FairQueue
from agent_runtime.scheduling.simulate import Machine, percentile, replay
from agent_runtime.scheduling.sizes import Capacity, Sizes
from engine.plan.compute import prefill_flops
from engine.plan.models import model_of

SIZES = Sizes(state=1000, kv_per_token=10, linear=2.0, quadratic=0.01, load_bandwidth=1000.0)
SMALL = ("--sessions", "120", "--rate", "0.5", "--slots", "4", "--context", "32K")


def machine(*, running=2, room=2, store=True):
    states = 5 * running + 2 * room
    capacity = Capacity(
        running, states, 10**6, running_states=5, idle_states=2, staging_bytes=10**9
    )
    return Machine(capacity, SIZES, 1000.0, 50.0, 10_000.0, store)


def queue():
    return FairQueue(limit=1000, tenant_limit=1000, quantum=500)


def simulated(capsys, *arguments):
    assert main(["simulate", *arguments]) == 0
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("store", [True, False])
def test_every_turn_runs_once_and_to_its_end(name, store):
    sessions = trace.sessions_of(trace.generate(60, rate=1.0, seed=3))
    turns = [turn for session in sessions for turn in session.turns]
    outcome = replay(sessions, machine(store=store), POLICIES[name](), queue())
    assert outcome.turns == len(turns) == len(outcome.waits) == sum(outcome.starts.values())
    known = {session.name: 0 for session in sessions}
    prompts = 0
    for turn in turns:
        prompts += known[turn.session] + turn.prompt
        known[turn.session] += turn.prompt + turn.output
    assert outcome.prompt_tokens == prompts
    assert 0 < outcome.reused_tokens < prompts
    assert (outcome.moved_bytes > 0, outcome.reprefilled > 0) == (store, not store)


def test_the_times_of_one_turn_are_those_of_the_rates():
    row = trace.Row(session="s", arrival=3.0, prompt=500, output=100)
    outcome = replay(trace.sessions_of([row]), machine(), LeastRecentlyUsed(), queue())
    assert outcome.waits == [0.0]
    assert outcome.ttfts == [pytest.approx(0.5)]
    assert outcome.seconds == pytest.approx(3.0 + 0.5 + 2.0)


def test_a_session_with_a_quick_tool_stays_where_lru_lets_it_go():
    """One whose tool takes four seconds, beside new ones whose readers never come back."""
    quick = [
        trace.Row(session="quick", prompt=50, output=1, tool="search", seconds=4.0)
        for _ in range(40)
    ]
    passing = [
        trace.Row(session=f"p{number}", arrival=0.9 * number, prompt=50, output=1)
        for number in range(320)
    ]
    sessions = trace.sessions_of([*quick, *passing])
    lru, aware = (
        replay(sessions, machine(running=1, room=2), policy, queue(), prefetch=False)
        for policy in (LeastRecentlyUsed(), ToolTime())
    )
    assert lru.starts["device"] < 20
    assert aware.starts["device"] > 30
    assert aware.moved_bytes < lru.moved_bytes


def test_the_command_prints_a_line_per_policy_and_bars(capsys):
    records, bars = simulated(capsys, *SMALL)
    assert [record["policy"] for record in records] == list(POLICIES)
    assert {record["sessions"] for record in records} == {120}
    assert len({record["turns"] for record in records}) == 1
    assert all(record["without_reprefill"] == 1.0 for record in records)
    assert bars.count("█") > 100


def test_a_trace_that_was_kept_gives_the_same_again(capsys, tmp_path):
    kept = tmp_path / "trace.jsonl"
    first, _ = simulated(capsys, *SMALL, "--policy", "lru", "--write", str(kept))
    again, _ = simulated(capsys, *SMALL, "--policy", "lru", "--trace", str(kept))
    for record in (*first, *again):
        del record["replayed_in_s"]
    assert first == again


def test_without_a_store_what_leaves_is_computed_again(capsys):
    options = (*SMALL, "--policy", "lru", "--context", "8K", "--gpus", "1xH100")
    options += ("--model", "nemotron-3-nano", "--slots", "1", "--rate", "5")
    (without,), _ = simulated(capsys, *options, "--no-store")
    (with_store,), _ = simulated(capsys, *options)
    assert without["without_reprefill"] < 1.0 == with_store["without_reprefill"]
    assert without["moved_bytes"] == 0 < with_store["moved_bytes"]


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_a_picture_is_drawn(capsys, tmp_path, ending):
    picture = tmp_path / f"policies{ending}"
    simulated(capsys, *SMALL, "--plot", str(picture))
    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG" if ending == ".png" else b"<?xml")
    assert len(drawn) > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plot", "policies.gif"], "should end in .png or .svg"),
        (["--slots", "100000"], "do not fit at once"),
        (["--trace", "no-such-file"], "cannot be read"),
    ],
)
def test_what_cannot_be_replayed_is_refused(capsys, arguments, said):
    assert main(["simulate", *SMALL, *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_bad_line_of_a_trace_is_named(capsys, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"session": "s", "prompt": 5, "output": 1}\n{"session": "s", "prompt": 5}\n')
    assert main(["simulate", "--trace", str(path)]) == 1
    assert "line 2: output Field required" in capsys.readouterr().err


def test_percentiles_are_values_that_occurred():
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 1.0)] == [50.0, 95.0, 100.0]
    assert percentile([], 0.5) == 0.0


@pytest.mark.parametrize(("name", "billions"), [("nemotron-3-super", 12), ("nemotron-3-ultra", 55)])
def test_flops_follow_from_the_parameters_that_the_models_are_named_after(name, billions):
    flops = prefill_flops(model_of(name, None, "H100"))
    assert flops.linear / 2e9 == pytest.approx(billions, rel=0.03)
    attention = model_of(name, None, "H100").architecture.attention
    assert flops.quadratic == 2 * attention.layers * attention.query_heads * attention.head_dim


@pytest.mark.parametrize("option", ["--rate 0", "--rate nan", "--sessions 0", "--slots -1"])
def test_what_is_no_rate_and_no_count_is_refused_in_words(capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", *SMALL, *option.split()])
    assert "is not a " in capsys.readouterr().err
