"""Stand-ins for three modules SGLang imports before any of its plugins can run.

`torchvision` and `triton` are imported unconditionally, `sgl_kernel` with SGLANG_USE_CPU_ENGINE=1;
none can be installed on a plain CPU machine (torchvision pulls gigabytes of CUDA, triton wants a
GPU, the CPU build of sgl_kernel is not published). The finders go to the *end* of sys.meta_path,
so a real installation always wins.

Whatever installs this must do it before it imports anything of SGLang (engine/serve.py does).
"""

from __future__ import annotations

import enum
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.cpu import triton_stub


def wanted() -> bool:
    """Whether SGLang is told to run on the CPU."""
    return os.environ.get("SGLANG_USE_CPU_ENGINE") == "1"


def install() -> None:
    """Make the stand-ins importable in this process. Doing it again changes nothing."""
    for finder in (_SglKernel, _Torchvision, triton_stub.Finder):
        if not any(type(present) is finder for present in sys.meta_path):
            sys.meta_path.append(finder())


class _SglKernel(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "sgl_kernel":
            return None  # its submodules are found through the package's own path
        home = Path(__file__).parent / "sgl_kernel"
        return importlib.util.spec_from_file_location(
            fullname, home / "__init__.py", submodule_search_locations=[str(home)]
        )


class _Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Enough of torchvision for module-level imports of image code a text model never runs."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__.endswith((".transforms", ".functional", ".v2")):
            vars(module)["InterpolationMode"] = _InterpolationMode


class _InterpolationMode(enum.Enum):
    """The members that SGLang and transformers name in default arguments and tables."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Absent(types.ModuleType):
    """Any attribute is a class that cannot be instantiated."""

    __version__ = "0.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        owner = self.__name__

        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"{owner}.{name} was called, but torchvision is not installed")

        return type(name, (), {"__init__": refuse})
