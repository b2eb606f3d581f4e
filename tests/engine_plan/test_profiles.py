"""Every variant of every profile is a command line that SGLang accepts and that serves our ends."""

import json
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import EngineStartFailed, UnsupportedLayout
from engine.launch import EngineOptions, EngineProcess, free_port
from engine.linker.layouts import require_restorable
from engine.profiles import PROFILES, architecture_file, gpu_types, profile_named, variants_of
from engine.profiles.files import ProfileFile, parsed

REPOSITORY = Path(__file__).parents[2]
EVERY = [profile for name in PROFILES for profile in variants_of(name).values()]
ON_GPUS = [profile for profile in EVERY if profile.gpu != "CPU"]
every_gpu_variant = pytest.mark.parametrize("profile", ON_GPUS, ids=lambda one: one.full_name)
every_variant = pytest.mark.parametrize("profile", EVERY, ids=lambda profile: profile.full_name)


@pytest.fixture(scope="module")
def sglang(put_before_sglang):
    """What SGLang's parser makes of every variant, with and without MTP, and at a long context."""
    keys, lines = [], []
    for profile in EVERY:
        longest = profile.at_context(profile.longest_context)
        for kind, line in (
            ("mtp", profile.command_line(mtp=True)),
            ("no mtp", profile.command_line(mtp=False)),
            ("longest", longest.command_line(mtp=True)),
        ):
            keys.append((profile.full_name, kind))
            lines.append(["--model-path", "somewhere", *line])
    keys += ["an unknown flag", "an unknown parser"]
    lines.append(["--model-path", "somewhere", "--snapshot-everything"])
    lines.append(["--model-path", "somewhere", "--reasoning-parser", "nano_v3"])
    return dict(zip(keys, put_before_sglang(lines), strict=True))


def test_sglang_refuses_what_does_not_exist(sglang):
    assert "--snapshot-everything" in sglang["an unknown flag"]["refused"]
    assert "nano_v3" in sglang["an unknown parser"]["refused"]


@every_variant
@pytest.mark.parametrize("kind", ["mtp", "no mtp", "longest"])
def test_sglang_accepts_the_command_line_and_reads_it_as_meant(sglang, profile, kind):
    verdict = sglang[profile.full_name, kind]
    assert "refused" not in verdict, verdict
    read = verdict["arguments"]
    meant = dict(profile.arguments)
    if kind == "longest":
        meant["context-length"] = profile.longest_context
        if "max-total-tokens" in meant:  # a pool that holds one session of that length
            meant["max-total-tokens"] = profile.longest_context
    if kind != "no mtp":
        meant |= profile.mtp_arguments
    for flag, value in meant.items():
        assert read[flag.replace("-", "_")] == value, flag
    assert read["mamba_radix_cache_strategy"] == "extra_buffer"
    speculates = "speculative_algorithm" in read
    assert speculates == (profile.mtp and kind != "no mtp")


@pytest.fixture(scope="module")
def started(put_before_sglang, tmp_path_factory):
    """What SGLang would start with on each variant's accelerator, with the linker."""
    keys, lines = [], []
    for profile in ON_GPUS:
        model = tmp_path_factory.mktemp("model")
        (model / "config.json").write_text(json.dumps(published_config(profile)))
        for kind, one in (
            ("native", profile),
            ("longest", profile.at_context(profile.longest_context)),
            ("longest, not allowed", profile.at_context(profile.longest_context)),
        ):
            keys.append((profile.full_name, kind))
            options = EngineOptions(
                profile=one,
                redis_url="redis://redis",
                log_file=model,
                model=REPOSITORY / PROFILES["demo"].model,
                port=free_port(),
                extra=("--model-path", str(model), "--device", "cuda"),
            )
            words = EngineProcess(options).command()
            allowed = {} if kind == "longest, not allowed" else dict(one.environment)
            lines.append(
                {
                    "words": words[words.index("--model-path") :],
                    "machine": profile.gpu,
                    "environment": allowed,
                }
            )
    return dict(zip(keys, put_before_sglang(lines), strict=True))


@pytest.mark.parametrize("kind", ["native", "longest"])
@every_gpu_variant
def test_sglang_would_start_with_what_is_meant(started, profile, kind):
    """Nothing is refused, and nothing is put in another one's place."""
    verdict = started[profile.full_name, kind]
    assert "refused" not in verdict, verdict
    read = verdict["arguments"]
    meant = {**profile.arguments, **profile.mtp_arguments}
    if kind == "longest":
        meant["context-length"] = profile.longest_context
    if meant.get("speculative-algorithm") == "NEXTN":
        meant["speculative-algorithm"] = "EAGLE"  # which it is another name for
    assert {flag: read[flag.replace("-", "_")] for flag in meant} == meant
    assert read["mamba_radix_cache_strategy"] == "extra_buffer"
    assert read["enable_session_radix_cache"]
    assert read["enable_unified_cache_external_linker"]
    assert not read["disable_radix_cache"]
    require_restorable(SimpleNamespace(**read))


@every_gpu_variant
def test_sglang_wants_the_permission_for_long_contexts_that_a_profile_gives(started, profile):
    verdict = started[profile.full_name, "longest, not allowed"]
    assert "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN" in verdict["refused"]


@every_variant
def test_sessions_can_be_stored_in_the_layout(sglang, profile):
    require_restorable(SimpleNamespace(**sglang[profile.full_name, "mtp"]["arguments"]))


def test_a_layout_whose_sessions_cannot_be_stored_is_refused(put_before_sglang):
    (verdict,) = put_before_sglang([["--model-path", "DIR", "--tp-size=4", "--attn-dp-size=2"]])
    with pytest.raises(UnsupportedLayout, match="--attn-dp-size 2"):
        require_restorable(SimpleNamespace(**verdict["arguments"]))


@every_variant
def test_states_fall_on_page_ends(profile):
    """SGLang asserts the first three at start (`arg_groups/mamba_hook.py`, `overrides.py`)."""
    page, interval = profile.arguments["page-size"], profile.arguments["mamba-track-interval"]
    chunk = config_of(profile)["chunk_size"]
    assert interval % page == 0
    assert interval >= profile.mtp_arguments.get("speculative-num-draft-tokens", 0)
    assert max(chunk, page) % min(chunk, page) == 0
    assert interval == math.lcm(chunk, page)


def test_blackwell_has_kernels_for_large_pages():
    """`layers/attention/trtllm_mha_backend.py` asks for this of pages of 128 tokens and more."""
    large = [
        profile
        for profile in ON_GPUS
        if profile.arguments["attention-backend"] == "trtllm_mha"
        and profile.arguments["page-size"] >= 128
    ]
    assert large
    for profile in large:
        config, page = config_of(profile), profile.arguments["page-size"]
        queries = config["num_attention_heads"] // profile.gpus
        keys = max(1, config["num_key_value_heads"] // profile.gpus)
        assert queries // keys > 1, profile.full_name
        assert page & (page - 1) == 0, profile.full_name


@every_variant
def test_the_weights_format_is_one_that_the_hardware_reads(profile):
    if profile.gpu != "CPU":
        assert profile.precision in gpu_types()[profile.gpu].formats


def test_mtp_is_on_in_every_profile_whose_model_has_the_head():
    for name, profile in PROFILES.items():
        config = config_of(profile)
        assert profile.mtp == bool(config["num_nextn_predict_layers"]), name


def test_every_model_has_a_variant_for_each_precision_and_accelerator():
    for name in ("nemotron-3-nano", "nemotron-3-super", "nemotron-3-ultra"):
        variants = variants_of(name).values()
        assert {variant.precision for variant in variants} == {"bf16", "fp8", "nvfp4"}
        assert {variant.gpu for variant in variants} == {"H100", "H200", "B200", "MI300X"}


def test_beyond_the_native_context_sglang_is_told_to_allow_it():
    profile = profile_named("nemotron-3-ultra")
    assert "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN" not in profile.environment
    native = profile.at_context(262144)
    longer = profile.at_context(1048576)
    assert native.environment == profile.environment
    assert longer.environment["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] == "1"
    with pytest.raises(EngineStartFailed, match="1048577 tokens is not possible"):
        profile.at_context(1048577)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama", "choose from demo, nemotron-3-nano"),
        ("nemotron-3-nano/int2-1xH100", "choose from bf16-1xH100"),
    ],
)
def test_an_unknown_profile_is_refused_with_those_that_exist(name, words):
    with pytest.raises(EngineStartFailed, match=words):
        profile_named(name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('gpus = "1xCPU"', 'gpus = "one"', "4xH100"),
        ('gpus = "1xCPU"', 'gpus = "8xH100"\nep = 2', "ep is 2"),
        ('precision = "fp32"\ngpus', 'precision = "int2"\ngpus', "int2"),
        ("summary", "sumary", "sumary"),
    ],
)
def test_a_mistake_in_a_data_file_is_named(old, new, words):
    text = (REPOSITORY / "engine/profiles/demo.toml").read_text()
    assert old in text
    with pytest.raises(EngineStartFailed, match=words):
        parsed(ProfileFile, tomllib.loads(text.replace(old, new, 1)), "demo.toml")


def published_config(profile):
    """As the profile's checkpoint has it: what sizes do not depend on is of the same kind of model,
    and ModelOpt says how the weights are rounded."""
    demo = json.loads((REPOSITORY / PROFILES["demo"].model / "config.json").read_text())
    config = demo | config_of(profile)
    formats = set(profile.weights.model_dump(exclude_none=True).values())
    if "quantization" not in profile.arguments and formats != {"bf16"}:
        mixed = {"fp8", "nvfp4"} <= formats
        algorithm = "MIXED_PRECISION" if mixed else (formats - {"bf16"}).pop().upper()
        config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": algorithm}
    return config


def config_of(profile):
    path = architecture_file(profile.name) or REPOSITORY / profile.model / "config.json"
    return json.loads(path.read_text())
