"""`import triton` without triton: SGLang's own stub for Apple machines, on this platform.

SGLang ships a mock of triton (sglang/_platform_stubs.py) under which its kernel *definitions*
import. It installs itself on macOS with MPS only, so we run its installer with that test answered
yes, and keep everything else it would change (torch.mps, Tensor.to, Tensor.copy_) as it was.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Installs the stub at the first import of triton that nothing else could satisfy."""

    def __init__(self) -> None:
        self._installing = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # The installer itself asks whether triton can be found: the answer must be no.
        if fullname.partition(".")[0] != "triton" or self._installing:
            return None
        self._installing = True
        try:
            _install()
        finally:
            self._installing = False
        module = sys.modules.get(fullname)
        if module is None:
            return None
        # A finder that has put the module in place itself is overruled by that module's own spec,
        # and the stub's has no loader.
        module.__spec__ = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """The installer has filled it already."""


def _install() -> None:
    stubs = _load_stubs()
    with _pretend_mps(stubs):
        stubs.install_platform_stubs()


def _load_stubs() -> types.ModuleType:
    """SGLang's stub module, loaded without importing the package around it (which needs triton)."""
    package = importlib.util.find_spec("sglang")
    if package is None or not package.submodule_search_locations:
        raise ImportError("SGLang is not installed")
    path = Path(package.submodule_search_locations[0]) / "_platform_stubs.py"
    spec = importlib.util.spec_from_file_location("_sglang_platform_stubs", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _pretend_mps(stubs: types.ModuleType) -> Iterator[None]:
    import torch

    class Darwin:
        platform, modules, meta_path = "darwin", sys.modules, sys.meta_path

    class Arm:
        @staticmethod
        def machine() -> str:
            return "arm64"

    vars(stubs).update(sys=Darwin, platform=Arm)
    to, copy_ = torch.Tensor.to, torch.Tensor.copy_
    available, mps = torch.backends.mps.is_available, set(vars(torch.mps))
    torch.backends.mps.is_available = lambda: True  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mps.is_available = available
        torch.Tensor.to, torch.Tensor.copy_ = to, copy_  # type: ignore[method-assign]
        for name in set(vars(torch.mps)) - mps:
            delattr(torch.mps, name)
