"""What `torpor plan` answers, and what it refuses."""

import json
import math
import secrets
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from test_sizes import GRANITE

from agent_runtime.cli import main
from engine.errors import ImpossiblePlan
from engine.linker.layouts import require_restorable
from engine.plan import Question, plan, stored
from engine.plan.architecture import read_architecture
from engine.plan.device import SLOTS
from engine.plan.sizes import StateSize
from engine.plan.stored import PART_BYTES, size_class
from engine.profiles import PROFILES, profile_named, variants_of
from state_store.embedded import EmbeddedServer

REPOSITORY = Path(__file__).parents[2]
MIB, GIB = 1 << 20, 1 << 30
ON_GPUS = [
    profile for name in PROFILES for profile in variants_of(name).values() if profile.gpu != "CPU"
]


def question(**changes):
    usual = {
        "model": "nemotron-3-super",
        "gpu": "H100",
        "gpus": 4,
        "sessions": 100,
        "context": 131072,
    }
    return Question(**{**usual, **changes})


@pytest.mark.parametrize("profile", ON_GPUS, ids=lambda profile: profile.full_name)
def test_every_variant_fits_its_hardware_at_the_native_context(profile):
    made = plan(
        Question(
            model=profile.name,
            gpu=profile.gpu,
            gpus=profile.gpus,
            tp=profile.gpus,
            sessions=1,
            context=profile.native_context,
            precision=profile.precision,
        )
    )
    assert made.engines.running >= 1
    if "ep-size" not in profile.arguments:
        assert made.launch[:5] == ("torpor", "engine", "up", "--profile", profile.full_name)
        assert made.page_tokens == profile.arguments["page-size"]
        assert 0.25 * MIB <= made.page_bytes_per_rank <= 4 * MIB


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "demo"])
def test_pages_stay_large_enough_without_mtp(name):
    for profile in variants_of(name).values():
        made = plan(
            Question(
                model=name,
                gpu=profile.gpu,
                gpus=profile.gpus,
                tp=profile.gpus,
                sessions=1,
                context=4096,
                precision=profile.precision,
                mtp=False,
            )
        )
        assert 0.25 * MIB <= made.page_bytes_per_rank <= 4 * MIB


def test_a_plan_adds_up():
    made = plan(question(prefill_rate=10_000.0))
    engines = made.engines
    assert engines.weights_per_gpu + engines.pools_per_gpu < engines.memory_per_gpu
    assert engines.count * engines.tp == 4
    assert engines.kv_copies == 2
    assert made.stored_bytes.kv == engines.kv_copies * made.model_bytes.kv
    assert made.stored_bytes.ssm == made.model_bytes.ssm == engines.tp * made.rank_bytes.ssm
    assert made.archive_bytes >= 100 * made.stored_bytes.kv + 200 * made.stored_bytes.ssm
    assert made.redis.nothing.memory > made.redis.nothing.payload


def test_one_more_session_than_can_run_would_not_fit():
    made = plan(question())
    engines, drafts = made.engines, 4
    state = made.rank_bytes.ssm + made.rank_bytes.conv
    kv = made.rank_bytes.kv + made.rank_bytes.draft_kv
    each = kv + (SLOTS + drafts) * state
    assert engines.running * each <= engines.pools_per_gpu < (engines.running + 2) * each


def test_the_layout_is_the_one_that_runs_most_sessions():
    free = plan(question(gpus=8))
    for tp in (4, 8):
        assert plan(question(gpus=8, tp=tp)).engines.running <= free.engines.running


def test_no_plan_is_for_a_layout_whose_sessions_cannot_be_stored(put_before_sglang):
    lines = []
    for model, gpu, gpus in product(list(PROFILES)[1:], ("H100", "B200"), (1, 2, 4, 8, 16)):
        try:
            launch = plan(question(model=model, gpu=gpu, gpus=gpus, sessions=1)).launch
        except ImpossiblePlan:
            continue
        profile = profile_named(launch[4])
        lines.append([*profile.command_line(mtp=True), *launch[launch.index("--") + 1 :]])
    assert len(lines) > 15
    for verdict in put_before_sglang([["--model-path", "DIR", *line] for line in lines]):
        require_restorable(SimpleNamespace(**verdict["arguments"]))


def test_more_gpus_than_a_model_divides_over_are_several_engines():
    made = plan(question(model="nemotron-3-ultra", precision="nvfp4", gpus=16))
    assert (made.engines.count, made.engines.tp) == (2, 8)
    with pytest.raises(ImpossiblePlan, match="8 recurrent groups do not divide by 16"):
        plan(question(model="nemotron-3-ultra", precision="nvfp4", gpus=16, tp=16))


def test_a_layout_without_a_variant_is_started_from_the_nearest_one():
    same_gpu = plan(question(gpus=8, tp=8)).launch
    assert "nemotron-3-super/bf16-4xH100" in same_gpu
    assert same_gpu[same_gpu.index("--tp-size") + 1] == "8"
    assert "--attention-backend" not in same_gpu
    other_gpu = plan(question(model="nemotron-3-nano", gpu="MI300X", gpus=2, tp=2)).launch
    assert "nemotron-3-nano/bf16-1xMI300X" in other_gpu


def test_forks_cost_their_own_turn_only():
    few, many = (plan(question(sessions=n)).redis.forks.payload for n in (1, 101))
    turn = plan(question()).turn_bytes
    assert (many - few) / 100 == pytest.approx(turn, rel=0.01)
    assert many < 0.2 * plan(question(sessions=101)).redis.nothing.payload


def test_a_shared_beginning_is_stored_once():
    made = plan(question(shared_tokens=65536))
    saved = made.redis.nothing.payload - made.redis.prefix.payload
    assert saved == pytest.approx(99 * made.stored_bytes.kv * 1.125 / 2, rel=0.01)


def test_at_the_break_even_resume_and_prefill_take_equally_long():
    rate = 5000.0
    tokens = plan(question(prefill_rate=rate, store_bandwidth=1e9)).times.break_even_tokens
    there = plan(question(context=tokens, prefill_rate=rate, store_bandwidth=1e9)).times
    assert there.resume == pytest.approx(there.prefill, rel=0.05)
    longer = plan(question(context=4 * tokens, prefill_rate=rate, store_bandwidth=1e9)).times
    assert longer.resume < longer.prefill


def test_a_slow_store_never_breaks_even():
    times = plan(question(prefill_rate=50_000.0, store_bandwidth=1e8)).times
    assert times.break_even_tokens is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": 2}, r"bf16 weights .* do not fit 2 x H100.*It would fit as fp8 on 2xH100"),
        (
            {"model": "nemotron-3-nano", "gpus": 1, "context": 1048576, "kv_dtype": "float32"},
            "one session of 1048576 tokens does not fit .* tokens would fit",
        ),
        ({"gpu": "MI300X", "precision": "nvfp4"}, "no kernels for nvfp4.*bf16 on 4xMI300X"),
        ({"context": 2_000_000}, "up to 1048576 tokens, not 2000000"),
        ({"gpu": "TPU"}, "no accelerator 'TPU'.*H100"),
        ({"precision": "int2"}, "no int2 variant; choose from bf16, fp8, nvfp4"),
        ({"gpus": 4, "tp": 3}, "4 GPUs do not divide into engines of 3"),
        ({"gpus": 0}, "gpus is 0; it must be a whole number from 1"),
        ({"model": "nowhere"}, "neither a profile .* nor a directory"),
        ({"redis_memory": 10 * GIB}, "of Redis memory, 10.0 GiB are given. . sessions would fit"),
        ({"ssm_dtype": "int4"}, "the dtype 'int4' is not known"),
        ({"shared_tokens": 200_000}, "do not fit a context of 131072"),
        ({"model": "demo"}, "demo runs on CPU, not on H100"),
    ],
)
def test_what_is_impossible_is_refused_with_the_reason_and_what_would_fit(changes, words):
    with pytest.raises(ImpossiblePlan, match=words):
        plan(question(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": -1}, {"gpus": 2.5}, {"gpus": 10**18}, {"sessions": 0}, {"context": 0},
        {"tp": 0}, {"tp": -1}, {"states": 0}, {"states": -5}, {"turn_tokens": 0},
        {"shared_tokens": -64}, {"turns_per_second": 0}, {"turns_per_second": math.nan},
        {"store_bandwidth": math.inf}, {"store_bandwidth": math.nan}, {"device_bandwidth": -1.0},
        {"prefill_rate": 0}, {"prefill_rate": -2.0}, {"redis_memory": -1}, {"redis_memory": 0},
    ],
    ids=repr,
)  # fmt: skip
def test_a_number_that_counts_nothing_is_refused_by_its_name(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ImpossiblePlan, match=rf"^{name} is {value:g}|^{name} is {value};"):
        plan(question(**changes))


def test_a_model_with_windows_is_not_planned_for_as_if_it_had_none():
    config = {"model_type": "nemotron_h", "is_hybrid_swa": True}
    with pytest.raises(ImpossiblePlan, match="sliding windows are served, but cannot be planned"):
        read_architecture(config)


def test_what_is_said_to_fit_does():
    with pytest.raises(ImpossiblePlan, match="It would fit as") as refused:
        plan(question(model="nemotron-3-ultra", gpus=8))
    offers = str(refused.value).partition("It would fit as ")[2].rstrip(".").split(", ")
    assert offers
    for offer in offers:
        precision, _, gpus = offer.partition(" on ")
        count, _, gpu = gpus.partition("x")
        fits = question(model="nemotron-3-ultra", precision=precision, gpu=gpu, gpus=int(count))
        assert plan(fits).engines.running >= 1


def test_the_longest_context_that_is_said_to_fit_does_and_no_longer_one():
    changes = {"model": "nemotron-3-nano", "gpus": 1, "kv_dtype": "float32"}
    with pytest.raises(ImpossiblePlan) as refused:
        plan(question(context=1048576, **changes))
    tokens = int(str(refused.value).partition(" GiB are left. ")[2].split()[0])
    assert plan(question(context=tokens, **changes)).engines.running == 1
    with pytest.raises(ImpossiblePlan):
        plan(question(context=tokens + 64, **changes))


def test_a_checkpoint_directory_is_planned_by_its_files():
    made = plan(question(model=str(REPOSITORY / "models/demo"), gpus=1, context=100_000))
    assert (
        made.engines.weights_total == (REPOSITORY / "models/demo/model.safetensors").stat().st_size
    )
    assert made.has_mtp
    assert "--model" in made.launch


def test_another_family_is_planned_from_its_directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GRANITE))
    with pytest.raises(ImpossiblePlan, match="no weight files"):
        plan(question(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(bytes(100 * MIB))
    made = plan(question(model=str(tmp_path), gpus=2, tp=2))
    assert made.engines.weights_per_gpu == 50 * MIB
    assert not made.has_mtp


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 16), (128, 128), (129, 160), (1025, 1280), (4097, 5120), (4 * MIB + 1, 5 * MIB)],
)
def test_size_classes_are_jemallocs(size, expected):
    assert size_class(size) == expected
    assert size_class(expected) == expected


def test_redis_counts_no_more_memory_than_planned(tmp_path):
    """Real values of the planned sizes in a real server, with the set that pins each."""
    size = StateSize(ssm=6 * MIB, conv=9000, kv_per_token=5000, draft_kv_per_token=600)
    ranks, tokens, page = 2, 1280, 64
    planned = stored.kv(size, ranks, tokens, page) + stored.states(size, ranks, 1)
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.ping()
        before = client.info("memory")["used_memory"]
        written = 0
        values = [size.per_token * page] * (tokens // page * ranks)
        values += [PART_BYTES, size.state - PART_BYTES] * ranks
        for number, value in enumerate(values):
            name = f"torpor:kv:{secrets.token_hex(16)}:0:{{{secrets.token_hex(32)}}}"
            client.set(name, bytes(128 + value), ex=3600)
            client.sadd(f"torpor:pins:kv:{number}:{secrets.token_hex(32)}", secrets.token_hex(8))
            written += 128 + value
        grown = client.info("memory")["used_memory"] - before
    assert planned.payload == written + tokens // page * 32 + tokens * 4
    assert written < grown <= planned.memory < 1.3 * written


# ---- the command ---------------------------------------------------------------------


def test_the_command_prints_a_table(capsys):
    arguments = "plan --model nemotron-3-ultra --gpus 8xB200 --sessions 50 --context 256K"
    assert main([*arguments.split(), "--prefill-rate", "8000"]) == 0
    shown = capsys.readouterr().out
    for words in ("1 of 8 x B200", "one session", "Redis memory", "resume", "torpor engine up"):
        assert words in shown


def test_the_command_prints_json(capsys):
    arguments = "plan --model nemotron-3-nano --gpus H200 --sessions 5 --context 1M --json"
    assert main(arguments.split()) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["kv_bytes_per_token"] == 6144
    assert made["question"]["context"] == 1048576
    assert made["redis"]["forks"]["payload"] < made["redis"]["nothing"]["payload"]


def test_the_command_refuses_in_one_line(capsys):
    arguments = "plan --model nemotron-3-ultra --gpus 8xH100 --sessions 50 --context 256K"
    assert main(arguments.split()) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("torpor: the bf16 weights of nemotron-3-ultra do not fit")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--gpus", "0xH100", "torpor: gpus is 0; it must be a whole number from 1"),
        ("--turn", "0", "torpor: turn_tokens is 0; it must be a whole number from 1"),
        ("--context", "0K", "torpor: context is 0; it must be a whole number from 1"),
        ("--store-bandwidth", "1e308", "torpor: store_bandwidth is inf; it must be above 0 and"),
        ("--gpus", "999999999999999xH100", "torpor: gpus is 999999999999999; it must be a whole"),
    ],
)
def test_the_command_refuses_a_number_that_counts_nothing(option, value, words, capsys):
    usual = {"--model": "nemotron-3-nano", "--gpus": "H200", "--sessions": "1", "--context": "1K"}
    usual[option] = value
    assert main(["plan", *(word for pair in usual.items() for word in pair)]) == 1
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize("bad", [["--gpus", "eight"], ["--context", "many"], ["--gpus", "8-B"]])
def test_the_command_explains_its_arguments(bad, capsys):
    usual = {"--model": "demo", "--gpus": "1xCPU", "--sessions": "1", "--context": "1K"}
    usual[bad[0]] = bad[1]
    if bad[1] == "eight":  # a type without a count: an unknown one
        assert main(["plan", *(word for pair in usual.items() for word in pair)]) == 1
        assert "no accelerator 'eight'" in capsys.readouterr().err
        return
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["plan", *(word for pair in usual.items() for word in pair)])
    assert bad[1] in capsys.readouterr().err
