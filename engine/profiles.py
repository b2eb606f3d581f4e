"""Launch profiles: how SGLang is started for a model.

GPU profiles follow SGLang's own cookbook for Nemotron 3; they were not run by us (see README,
"What was verified where").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import EngineStartFailed

PAGE_SIZE = 64

# State lives at multiples of the tracking interval, and a snapshot ends at such a multiple: one
# page, so that a resumed turn recomputes less than a page of what was known.
_STATE = (
    "--page-size", str(PAGE_SIZE),
    "--mamba-radix-cache-strategy", "extra_buffer",
    "--mamba-track-interval", str(PAGE_SIZE),
    "--enable-session-radix-cache",  # also keeps SGLang on its Python tree, which we hook
    "--enable-cache-report",
)  # fmt: skip
_MTP = (
    "--speculative-algorithm", "NEXTN",
    "--speculative-num-steps", "3",
    "--speculative-eagle-topk", "1",
    "--speculative-num-draft-tokens", "4",
)  # fmt: skip
_CPU = (
    "--device", "cpu",
    "--dtype", "float32",
    "--attention-backend", "torch_native",
    "--sampling-backend", "pytorch",
    "--disable-cuda-graph",
    "--disable-overlap-schedule",
    "--sleep-on-idle",  # or an idle scheduler keeps a core busy
    "--mem-fraction-static", "0.1",
)  # fmt: skip
_CPU_ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # compiling stalls the first request by up to half a minute
    "OMP_NUM_THREADS": "1",
    "SGLANG_MAMBA_CONV_DTYPE": "float32",  # SGLang's default is bfloat16 even in a float32 model
}
_TOOLS = ("--tool-call-parser", "qwen3_coder")


@dataclass(frozen=True)
class Profile:
    """model: checkpoint directory, or None if it must be given; arguments: SGLang's flags."""

    name: str
    summary: str
    arguments: tuple[str, ...]
    mtp: bool
    model: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def command_line(self, *, mtp: bool) -> list[str]:
        return [*self.arguments, *_STATE, *(_MTP if self.mtp and mtp else ())]


def _gpu(name: str, summary: str, *arguments: str, mtp: bool) -> Profile:
    return Profile(name, summary, (*arguments, *_TOOLS, "--trust-remote-code"), mtp)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "demo",
            "the repository's own small model, on a CPU",
            (
                *_CPU,
                "--max-total-tokens", "131072",
                "--max-running-requests", "4",
                "--max-mamba-cache-size", "96",
                "--chunked-prefill-size", "1024",
                "--context-length", "131072",
            ),
            mtp=True,
            model=Path("models/demo"),
            environment=_CPU_ENVIRONMENT,
        ),
        _gpu(
            "nemotron-3-nano",
            "Nemotron 3 Nano 30B-A3B (BF16) on one 80 GB GPU",
            "--reasoning-parser", "nano_v3",
            mtp=False,
        ),
        _gpu(
            "nemotron-3-super",
            "Nemotron 3 Super 120B-A12B (BF16) on 4 x 80 GB GPUs",
            "--tp-size", "4", "--reasoning-parser", "nemotron_3",
            mtp=True,
        ),
        _gpu(
            "nemotron-3-ultra",
            "Nemotron 3 Ultra 550B-A55B (BF16) on 8 x B200",
            "--tp-size", "8", "--attention-backend", "trtllm_mha",
            "--reasoning-parser", "nemotron_3",
            mtp=True,
        ),
    )
}  # fmt: skip


def profile_named(name: str) -> Profile:
    """Raises EngineStartFailed, naming the profiles that exist."""
    if name not in PROFILES:
        raise EngineStartFailed(f"no profile {name!r}; choose from {', '.join(PROFILES)}.")
    return PROFILES[name]
