"""A model to plan for: a profile's, or the one in a checkpoint directory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import ImpossiblePlan
from engine.plan.architecture import Architecture, read_architecture
from engine.plan.sizes import Dtypes, Layout, rank_size
from engine.plan.weights import counted, weight_files
from engine.profiles import (
    PROFILES,
    Profile,
    architecture_file,
    profile_named,
    variants_of,
)
from engine.profiles.files import Value, Weights

_PAGE = 64
_LARGEST_PAGE = 128  # that SGLang's trtllm_mha backend takes
_SMALLEST_VALUE = 256 << 10  # bytes
_MEMORY_FRACTION = 0.85
_CONV_DTYPE = "bfloat16"  # `configs/mamba_utils.py`, unless SGLANG_MAMBA_CONV_DTYPE says otherwise


@dataclass(frozen=True)
class Model:
    """file_bytes: of a checkpoint's weights, 0 if sizes come from the dimensions alone

    profile:   the profile to start it with
    page, track_interval: tokens
    draft_tokens: that are verified at once with MTP
    """

    name: str
    profile: str
    architecture: Architecture
    precision: str
    precisions: tuple[str, ...]
    dtypes: Dtypes
    page: int
    track_interval: int
    draft_tokens: int
    memory_fraction: float
    longest_context: int
    formats: Weights
    file_bytes: int
    variants: tuple[Profile, ...] = ()

    def with_dtypes(self, *, kv: str | None, ssm: str | None) -> Model:
        dtypes = Dtypes(kv or self.dtypes.kv, self.dtypes.conv, ssm or self.dtypes.ssm)
        return replace(self, dtypes=dtypes)

    def weights(self, layout: Layout, *, mtp: bool) -> tuple[int, int]:
        """Bytes of all weights, and bytes that one GPU holds."""
        blocks = self.architecture.blocks
        if blocks is None:
            return self.file_bytes, -(-self.file_bytes // layout.tp)
        total, per_gpu = counted(self.architecture, blocks, self.formats, layout, mtp=mtp)
        if not self.file_bytes:
            return total, per_gpu
        return self.file_bytes, round(per_gpu * self.file_bytes / total)

    def variant(self, gpu: str, layout: Layout) -> Profile | None:
        """The profile's variant for this precision and layout, if it has one."""
        for profile in self.variants:
            if (profile.precision, profile.gpu, profile.gpus) == (self.precision, gpu, layout.tp):
                return profile
        return None

    def nearest(self, gpu: str) -> Profile | None:
        """A variant of this precision to start from where none is for the layout: for the same
        kind of GPU if there is one."""
        usable = [one for one in self.variants if one.precision == self.precision]
        return next((one for one in usable if one.gpu == gpu), next(iter(usable), None))

    def divided(self, gpu: str, layout: Layout, *, mtp: bool) -> Model:
        """This model with the page that suits the layout: its variant's, or else the profile's,
        doubled while a rank's page is smaller than what the store moves well."""
        variant = self.variant(gpu, layout)
        if variant is not None:
            page = _integer(variant.arguments, "page-size", self.page)
        else:
            per_token = rank_size(self.architecture, self.dtypes, layout, mtp=mtp).per_token
            page = self.page
            while page < _LARGEST_PAGE and page * per_token < _SMALLEST_VALUE:
                page *= 2
        interval = math.lcm(page, self.architecture.chunk)
        return replace(self, page=page, track_interval=interval)


def model_of(name: str, precision: str | None, gpu: str) -> Model:
    """The model that `name` (a profile or a directory) stands for, in the given precision.

    Raises ImpossiblePlan when there is no such model or precision.
    """
    if name in PROFILES:
        return _of_profile(name, precision, gpu)
    folder = Path(name)
    if not folder.is_dir():
        raise ImpossiblePlan(
            f"{name!r} is neither a profile ({', '.join(PROFILES)}) nor a directory."
        )
    return _of_checkpoint(folder, precision)


def _of_profile(name: str, precision: str | None, gpu: str) -> Model:
    variants = tuple(variants_of(name).values())
    precisions = tuple(dict.fromkeys(variant.precision for variant in variants))
    chosen = precision or precisions[0]
    if chosen not in precisions:
        raise ImpossiblePlan(
            f"{name} has no {chosen} variant; choose from {', '.join(precisions)}."
        )
    of_precision = [variant for variant in variants if variant.precision == chosen]
    profile = next((one for one in of_precision if one.gpu == gpu), of_precision[0])
    if (gpu == "CPU") != (profile.gpu == "CPU"):
        raise ImpossiblePlan(f"{name} runs on {profile.gpu}, not on {gpu}.")
    path = architecture_file(name)
    folder = None if path is not None else profile.model
    if path is None:
        assert folder is not None, f"{name} has neither dimensions nor a checkpoint"
        path = folder / "config.json"
    architecture = _read(path)
    return Model(
        name=name,
        profile=name,
        architecture=architecture,
        precision=chosen,
        precisions=precisions,
        dtypes=_dtypes(profile.arguments, profile.environment, architecture),
        page=_integer(profile.arguments, "page-size", _PAGE),
        track_interval=architecture.chunk,
        draft_tokens=_integer(profile.mtp_arguments, "speculative-num-draft-tokens", 0),
        memory_fraction=float(profile.arguments.get("mem-fraction-static", _MEMORY_FRACTION)),
        longest_context=profile.longest_context,
        formats=profile.weights,
        file_bytes=weight_files(folder) if folder is not None else 0,
        variants=variants,
    )


def _of_checkpoint(folder: Path, precision: str | None) -> Model:
    if precision is not None:
        raise ImpossiblePlan(
            f"{folder} has its weights as they are; leave the precision out, or name a profile."
        )
    architecture = _read(folder / "config.json")
    size = weight_files(folder)
    if not size:
        raise ImpossiblePlan(f"there are no weight files (*.safetensors) in {folder} to size.")
    mtp = profile_named("nemotron-3-super").mtp_arguments
    return Model(
        name=folder.name,
        profile="nemotron-3-nano",
        architecture=architecture,
        precision=_FORMATS.get(architecture.dtype, "bf16"),
        precisions=(),
        dtypes=_dtypes({}, {}, architecture),
        page=_PAGE,
        track_interval=architecture.chunk,
        draft_tokens=(
            _integer(mtp, "speculative-num-draft-tokens", 0) if architecture.draft_layers else 0
        ),
        memory_fraction=_MEMORY_FRACTION,
        longest_context=architecture.context,
        formats=Weights(default="bf16"),
        file_bytes=size,
    )


_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}


def _read(path: Path) -> Architecture:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ImpossiblePlan(f"{path} cannot be read: {error}") from error
    return read_architecture(config)


def _dtypes(
    arguments: Mapping[str, Value], environment: Mapping[str, str], architecture: Architecture
) -> Dtypes:
    kv = str(arguments.get("kv-cache-dtype", arguments.get("dtype", architecture.dtype)))
    return Dtypes(
        kv=kv,
        conv=environment.get("SGLANG_MAMBA_CONV_DTYPE", _CONV_DTYPE),
        ssm=str(arguments.get("mamba-ssm-dtype", architecture.ssm_dtype)),
    )


def _integer(arguments: Mapping[str, Value], flag: str, default: int) -> int:
    return int(arguments.get(flag, default))
