"""Launch profiles: how SGLang is started for a model on some hardware.

Each profile is a data file in this folder, `<name>.toml`, beside the dimensions of its model,
`<name>.json` (the fields of its `config.json` that sizes depend on). A profile has *variants*, one
per precision and hardware, named `<precision>-<count>x<gpu>` and, where they are used,
`-ep<n>` (experts divided over ranks) and `-dp<n>` (attention as data-parallel groups).

    profile_named("nemotron-3-super")                # its first variant
    profile_named("nemotron-3-super/nvfp4-4xB200")

The GPU profiles follow SGLang's cookbook for Nemotron 3; they were not run by us (see README,
"What was verified where"), only put through SGLang's checks of its arguments.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from engine.errors import EngineStartFailed
from engine.profiles.files import GpuType, ProfileFile, Value, Variant, Weights, parsed

_FOLDER = Path(__file__).parent
_REPOSITORY = _FOLDER.parents[1]

# State lives at multiples of the tracking interval (`mamba-track-interval` in the files), and a
# snapshot ends at such a multiple.
_STATE: Mapping[str, Value] = MappingProxyType(
    {
        "mamba-radix-cache-strategy": "extra_buffer",
        "enable-session-radix-cache": True,  # also keeps SGLang on its Python tree, which we hook
        "enable-cache-report": True,
    }
)
_LONGER_THAN_NATIVE = {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1"}


@dataclass(frozen=True)
class Profile:
    """One variant of a profile, ready to become a command line.

    arguments:     SGLang's flags without the dashes; `True` is a flag that takes no value
    mtp_arguments: those that turn MTP speculation on; empty if the model has no MTP head
    weights:       formats of the weights by part
    model:         checkpoint directory, or None if it must be given
    checkpoint:    name of the published checkpoint, for people
    """

    name: str
    variant: str
    summary: str
    arguments: Mapping[str, Value]
    mtp_arguments: Mapping[str, Value]
    precision: str
    weights: Weights
    gpu: str
    gpus: int
    native_context: int
    longest_context: int
    model: Path | None = None
    checkpoint: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def mtp(self) -> bool:
        return bool(self.mtp_arguments)

    @property
    def full_name(self) -> str:
        return f"{self.name}/{self.variant}"

    def command_line(self, *, mtp: bool) -> list[str]:
        """SGLang's arguments, model path and ports excepted."""
        chosen = {**self.arguments, **_STATE, **(self.mtp_arguments if mtp else {})}
        return [word for flag, value in chosen.items() for word in _words(flag, value)]

    def at_context(self, tokens: int) -> Profile:
        """This profile for sessions of up to `tokens`; where it fixes the size of the KV pool, that
        holds one at least. Raises EngineStartFailed beyond the longest context that the model is
        published for."""
        if not 0 < tokens <= self.longest_context:
            raise EngineStartFailed(
                f"a context of {tokens} tokens is not possible with {self.name}: choose 1 to "
                f"{self.longest_context} (native: {self.native_context})."
            )
        override = _LONGER_THAN_NATIVE if tokens > self.native_context else {}
        pool = self.arguments.get("max-total-tokens")
        grown = {} if pool is None else {"max-total-tokens": max(int(pool), tokens)}
        return replace(
            self,
            arguments={**self.arguments, **grown, "context-length": tokens},
            environment={**self.environment, **override},
        )


def variants_of(name: str) -> dict[str, Profile]:
    """All variants of a profile by name, the default first. Raises EngineStartFailed."""
    if name not in PROFILES:
        raise EngineStartFailed(f"no profile {name!r}; choose from {', '.join(PROFILES)}.")
    return _variants(name)


def profile_named(name: str) -> Profile:
    """`<profile>` or `<profile>/<variant>`. Raises EngineStartFailed, naming those that exist."""
    base, _, variant = name.partition("/")
    variants = variants_of(base)
    if not variant:
        return next(iter(variants.values()))
    if variant not in variants:
        raise EngineStartFailed(
            f"profile {base} has no variant {variant!r}; choose from {', '.join(variants)}."
        )
    return variants[variant]


def architecture_file(name: str) -> Path | None:
    """The dimensions of a profile's model in `config.json`'s fields; None if its own checkpoint,
    which is in the repository, has them."""
    path = _FOLDER / f"{name}.json"
    return path if path.exists() else None


@cache
def gpu_types() -> dict[str, GpuType]:
    """What is known about each kind of accelerator, by name."""
    table = tomllib.loads((_FOLDER / "hardware.toml").read_text("utf-8"))
    return {name: parsed(GpuType, entry, f"hardware.toml, {name}") for name, entry in table.items()}


@cache
def _variants(name: str) -> dict[str, Profile]:
    path = _FOLDER / f"{name}.toml"
    file = parsed(ProfileFile, tomllib.loads(path.read_text("utf-8")), path.name)
    profiles = [_profile(name, file, variant) for variant in file.variant]
    found = {profile.variant: profile for profile in profiles}
    if len(found) < len(profiles):
        raise EngineStartFailed(f"{path.name} has two variants of the same name.")
    return found


def _profile(name: str, file: ProfileFile, variant: Variant) -> Profile:
    count, gpu = variant.count, variant.gpu
    precision = file.precision[variant.precision]
    layout: dict[str, Value] = {}
    if gpu != "CPU":
        layout["tp-size"] = count
        if variant.ep > 1:
            layout["ep-size"] = variant.ep
    return Profile(
        name=name,
        variant=variant.name,
        summary=f"{file.summary} ({variant.precision.upper()} on {variant.gpus})",
        arguments={
            **layout,
            "context-length": file.context.native,
            **gpu_types()[gpu].arguments,
            **file.arguments,
            **precision.arguments,
            **variant.arguments,
        },
        mtp_arguments=file.mtp,
        precision=variant.precision,
        weights=precision.weights,
        gpu=gpu,
        gpus=count,
        native_context=file.context.native,
        longest_context=file.context.longest,
        model=_found(file.model),
        checkpoint=precision.checkpoint,
        environment=file.environment,
    )


def _found(model: Path | None) -> Path | None:
    """The repository's own, if a command runs in another folder that has no such model."""
    if model is None or model.is_dir() or not (_REPOSITORY / model).is_dir():
        return model
    return _REPOSITORY / model


def _words(flag: str, value: Value) -> list[str]:
    return [f"--{flag}"] if value is True else [f"--{flag}", str(value)]


def _names() -> list[str]:
    found = [path.stem for path in _FOLDER.glob("*.toml") if path.stem != "hardware"]
    return sorted(found, key=lambda name: (name != "demo", re.sub(r"\W", "", name)))


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {name: next(iter(_variants(name).values())) for name in _names()}
)
"""The default variant of every profile."""
