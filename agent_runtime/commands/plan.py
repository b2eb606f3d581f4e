"""`torpor plan`: what fits on some GPUs, what sessions cost to keep, how fast they come back."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterator

from engine.plan import Plan, Question, SessionBytes, plan
from engine.plan.stored import Stored

_GIB = 1 << 30
_MIB = 1 << 20
_GPUS = re.compile(r"(?:(\d+)\s*[x×*])?\s*([A-Za-z]\w*)")  # noqa: RUF001
_TOKENS = {"": 1, "K": 1 << 10, "M": 1 << 20}


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a profile, or a checkpoint directory")
    parser.add_argument(
        "--gpus", required=True, type=read_gpus, metavar="NxTYPE", help="such as 8xH100"
    )
    parser.add_argument(
        "--sessions", required=True, type=read_count, help="that exist, awake or not"
    )
    parser.add_argument(
        "--context", required=True, type=read_tokens, metavar="TOKENS", help="of each, such as 256K"
    )
    parser.add_argument("--quantization", help="of the weights: bf16, fp8 or nvfp4")
    parser.add_argument("--kv-dtype", help="instead of the profile's: bfloat16, fp8_e4m3")
    parser.add_argument("--ssm-dtype", help="instead of the profile's: float32, bfloat16, float16")
    parser.add_argument("--no-mtp", action="store_true", help="decode without speculation")
    parser.add_argument(
        "--tp", type=read_count, help="GPUs per engine; default: what runs most sessions"
    )
    parser.add_argument(
        "--states",
        type=read_count,
        default=2,
        help="recurrent states kept per session (default: 2)",
    )
    parser.add_argument(
        "--shared", type=read_tokens, default=0, metavar="TOKENS", help="all sessions begin with"
    )
    parser.add_argument(
        "--turn", type=read_tokens, default=1000, metavar="TOKENS", help="new per turn"
    )
    parser.add_argument(
        "--turns-per-second", type=read_positive, default=1.0, help="of all sessions"
    )
    parser.add_argument(
        "--store-bandwidth", type=read_positive, default=1.25, metavar="GB/s", help="default: 1.25"
    )
    parser.add_argument(
        "--device-bandwidth",
        type=read_positive,
        default=25.0,
        metavar="GB/s",
        help="per GPU; default: 25",
    )
    parser.add_argument(
        "--prefill-rate",
        type=read_positive,
        metavar="TOKENS/s",
        help="of one engine, to compare with",
    )
    parser.add_argument(
        "--redis-memory", type=read_positive, metavar="GiB", help="refuse to need more"
    )
    parser.add_argument("--json", action="store_true", help="all figures, in bytes and seconds")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    count, gpu = arguments.gpus
    redis = arguments.redis_memory
    made = plan(
        Question(
            model=arguments.model,
            gpu=gpu,
            gpus=count,
            sessions=arguments.sessions,
            context=arguments.context,
            precision=arguments.quantization,
            ssm_dtype=arguments.ssm_dtype,
            kv_dtype=arguments.kv_dtype,
            mtp=not arguments.no_mtp,
            tp=arguments.tp,
            states=arguments.states,
            shared_tokens=arguments.shared,
            turn_tokens=arguments.turn,
            turns_per_second=arguments.turns_per_second,
            store_bandwidth=arguments.store_bandwidth * 1e9,
            device_bandwidth=arguments.device_bandwidth * 1e9,
            prefill_rate=arguments.prefill_rate,
            redis_memory=None if redis is None else int(redis * _GIB),
        )
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(made), indent=2))
    else:
        print("\n".join(_lines(made)))
    return 0


def _lines(made: Plan) -> Iterator[str]:
    question, engines, times = made.question, made.engines, made.times
    yield (
        f"{question.model}, {made.precision} weights, {question.sessions} sessions of "
        f"{question.context} tokens, MTP {'on' if question.mtp and made.has_mtp else 'off'}"
    )
    yield ""
    yield f"engines        {engines.count} of {engines.tp} x {question.gpu}"
    yield (
        f"per GPU        {_gib(engines.memory_per_gpu)}: weights "
        f"{_gib(engines.weights_per_gpu)}, KV and states {_gib(engines.pools_per_gpu)}"
    )
    asleep = max(0, question.sessions - engines.running)
    yield (
        f"at once        {engines.running} sessions can run, {engines.resident} can stay ready; "
        f"{asleep} of {question.sessions} sleep in the store"
    )
    yield ""
    yield "one session    " + "".join(
        f"{head:>13}" for head in ("SSM", "conv", "KV", "draft KV", "tokens", "total")
    )
    yield _session("  the model", made.model_bytes)
    yield _session("  on one rank", made.rank_bytes)
    yield _session("  in the store", made.stored_bytes)
    if engines.kv_copies > 1:
        yield (
            f"  ({engines.tp} ranks share fewer KV heads: each is held, and stored, "
            f"{engines.kv_copies} times)"
        )
    yield (
        f"  page {made.page_tokens} tokens = {made.page_bytes_per_rank / _MIB:.2f} MiB per rank; "
        f"a state weighs as much as the KV of {made.state_pays_from} tokens"
    )
    yield ""
    yield f"Redis memory   {question.states} states kept per session"
    yield _shared("  nothing shared", made.redis.nothing)
    if question.shared_tokens:
        yield _shared(f"  {question.shared_tokens} tokens shared", made.redis.prefix)
    yield _shared("  forks of one", made.redis.forks) + f", {question.turn_tokens} tokens on"
    yield f"archive        {_gib(made.archive_bytes)}, uncompressed, nothing shared"
    yield (
        f"bandwidth      a turn of {question.turn_tokens} tokens writes "
        f"{made.turn_bytes / _MIB:.1f} MiB; at {question.turns_per_second:g} turns/s "
        f"{made.write_bandwidth / 1e9:.2f} GB/s out, and {made.read_bandwidth / 1e9:.2f} GB/s in "
        "if each resumes first"
    )
    yield ""
    yield (
        f"resume         {times.resume:.2f} s at {question.store_bandwidth / 1e9:g} GB/s from the "
        f"store and {question.device_bandwidth / 1e9:g} GB/s per GPU"
    )
    if times.prefill is not None and times.resume_tail is not None:
        yield (
            f"               plus up to {times.resume_tail:.3f} s for the tail; prefill of it all "
            f"takes {times.prefill:.2f} s"
        )
        if times.break_even_tokens is None:
            yield "               prefill is faster at any length: the store is too slow"
        else:
            yield f"               faster than prefill from {times.break_even_tokens} tokens on"
    yield ""
    yield "start with     " + " ".join(made.launch)


def _session(name: str, size: SessionBytes) -> str:
    parts = (size.ssm, size.conv, size.kv, size.draft_kv, size.token_log, size.total)
    return f"{name:<15}" + "".join(f"{part / _MIB:9.1f} MiB" for part in parts)


def _shared(name: str, size: Stored) -> str:
    return f"{name:<24}{_gib(size.memory)} ({_gib(size.payload)} of data)"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def read_gpus(text: str) -> tuple[int, str]:
    match = _GPUS.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not such as 8xH100")
    return int(match[1] or 1), match[2]


def read_tokens(text: str) -> int:
    """`1000`, `256K` (x 1024) or `1M` (x 1024 x 1024)."""
    match = re.fullmatch(r"(\d+)([KM]?)", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens such as 1000 or 256K")
    return int(match[1]) * _TOKENS[match[2]]


def read_count(text: str) -> int:
    """1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def read_positive(text: str) -> float:
    """Above 0, and finite."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
