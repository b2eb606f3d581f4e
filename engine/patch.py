"""What a patch is, how it is put in place, and how to see that it really is."""

from __future__ import annotations

import pkgutil
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from engine.errors import PatchError


class Kind(Enum):
    REPLACE = "replace"
    """SGLang's hook registry puts ours in the place of an existing function or class."""
    AROUND = "around"
    """SGLang's hook registry calls ours with the original as first argument."""
    BIND = "bind"
    """A module global that upstream binds on GPU platforms only; on CPU the name is missing."""
    OPERATOR = "operator"
    """An ATen operator without a CPU kernel; the target is ``aten::name.overload``."""


@dataclass(frozen=True)
class Patch:
    target: str
    """Dotted path of the upstream symbol, or the qualified name of an ATen operator."""
    kind: Kind
    ours: Callable[..., Any]
    reason: str


# torch forgets operator registrations when the Library object dies.
_libraries: list[torch.library.Library] = []


def register(patch: Patch) -> None:
    """Put `patch` in place, or hand it to SGLang's hook registry, which applies it with the rest.

    Raises:
        PatchError: upstream now provides what `patch` would supply.
    """
    if patch.kind is Kind.BIND:
        _bind(patch)
    elif patch.kind is Kind.OPERATOR:
        _implement(patch)
    else:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(patch.target, patch.ours, HookType(patch.kind.value))


def in_place(patch: Patch) -> bool:
    """Whether calls to `patch.target` reach ours now. Looks at the live object, not at a record."""
    if patch.kind is Kind.OPERATOR:
        return _has_cpu_kernel(patch.target)
    try:
        current = pkgutil.resolve_name(patch.target)
    except (ImportError, AttributeError):
        return False
    return any(layer is patch.ours for layer in _layers(current))


def require(patches: Iterable[Patch]) -> None:
    """Raises:
    PatchError: calls to at least one target do not reach our code in this process.
    """
    expected = list(patches)
    missing = [patch for patch in expected if not in_place(patch)]
    if missing:
        lines = [f"  {patch.target} ({patch.kind.value}): {patch.reason}" for patch in missing]
        raise PatchError(
            f"{len(missing)} of {len(expected)} patches did not take effect on the installed "
            "SGLang, so it would fail or answer wrongly:\n" + "\n".join(lines)
        )


def _bind(patch: Patch) -> None:
    path, _, name = patch.target.rpartition(".")
    module = pkgutil.resolve_name(path)
    bound = getattr(module, name, None)
    if bound is patch.ours:
        return
    if bound is not None:
        raise PatchError(f"{patch.target} is bound upstream on CPU now; drop or rework this patch")
    setattr(module, name, patch.ours)


def _implement(patch: Patch) -> None:
    if _has_cpu_kernel(patch.target):
        return
    namespace, _, operator = patch.target.partition("::")
    library = torch.library.Library(namespace, "IMPL")  # type: ignore[no-untyped-call]
    library.impl(operator, patch.ours, "CPU")  # type: ignore[no-untyped-call]
    _libraries.append(library)


def _has_cpu_kernel(operator: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CPU")


def _layers(function: Any) -> Iterator[Any]:
    """`function` and what it wraps: SGLang's hook wrapper keeps our function in a closure cell and
    the function below in ``__wrapped__``; another plugin may have wrapped it once more."""
    while function is not None:
        yield function
        if isinstance(function, types.FunctionType) and function.__closure__:
            yield from (cell.cell_contents for cell in function.__closure__)
        function = getattr(function, "__wrapped__", None)
