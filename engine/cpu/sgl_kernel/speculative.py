"""A name that SGLang's n-gram speculation imports."""

from typing import Any, NoReturn


def reconstruct_indices_from_tree_mask(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("n-gram speculation is not supported by this CPU engine")
