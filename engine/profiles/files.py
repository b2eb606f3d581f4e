"""What a profile's data file may contain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)

from engine.errors import EngineStartFailed

Value = StrictBool | StrictInt | StrictFloat | str
"""Of an SGLang flag; `True` is a flag that takes no value."""
Format = Literal["fp32", "bf16", "fp8", "nvfp4"]

_GPUS = re.compile(r"(\d+)x(\w+)")
_T = TypeVar("_T", bound=BaseModel)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(_Table):
    """The format in which a checkpoint keeps each part of the weights. The router, norms and the
    MTP layer always are in the default format."""

    default: Format
    routed: Format | None = None
    """Routed experts."""
    shared: Format | None = None
    """Shared experts."""
    mamba: Format | None = None
    """In and out projections of the Mamba layers."""
    mamba_before_attention: Format | None = None
    """The same of those Mamba layers that feed an attention layer."""


class Precision(_Table):
    checkpoint: str | None = None
    weights: Weights
    arguments: dict[str, Value] = Field(default_factory=dict)


class Variant(_Table):
    precision: str
    gpus: str
    """`4xH100`: that many are the tensor-parallel size."""
    ep: int = Field(default=1, ge=1)
    arguments: dict[str, Value] = Field(default_factory=dict)

    @property
    def count(self) -> int:
        return int(self._gpus[1])

    @property
    def gpu(self) -> str:
        return self._gpus[2]

    @property
    def name(self) -> str:
        parts = [self.precision, self.gpus]
        if self.ep > 1:
            parts.append(f"ep{self.ep}")
        return "-".join(parts)

    @property
    def _gpus(self) -> re.Match[str]:
        match = _GPUS.fullmatch(self.gpus)
        assert match is not None
        return match

    @model_validator(mode="after")
    def _is_possible(self) -> Variant:
        if _GPUS.fullmatch(self.gpus) is None:
            raise ValueError(f"gpus is {self.gpus!r}; write for example '4xH100'")
        if self.ep not in (1, self.count):
            raise ValueError(f"ep is {self.ep}; this MoE takes 1 or the number of GPUs")
        return self


class Context(_Table):
    native: int
    """Tokens that the model's own config allows."""
    longest: int
    """Tokens that its publisher names as possible with an override."""


class ProfileFile(_Table):
    summary: str
    context: Context
    model: Path | None = None
    arguments: dict[str, Value] = Field(default_factory=dict)
    mtp: dict[str, Value] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    precision: dict[str, Precision]
    variant: tuple[Variant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_its_precisions(self) -> ProfileFile:
        unknown = {variant.precision for variant in self.variant} - set(self.precision)
        if unknown:
            raise ValueError(f"no [precision.…] for {', '.join(sorted(unknown))}")
        return self


class GpuType(_Table):
    memory_mib: int
    arguments: dict[str, Value] = Field(default_factory=dict)
    formats: tuple[Format, ...] = ("fp32", "bf16")


def parsed(kind: type[_T], content: dict[str, Any], where: str) -> _T:
    """Raises EngineStartFailed, saying which entry of which file is wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        raise EngineStartFailed(f"{where}: {wrong}") from error
