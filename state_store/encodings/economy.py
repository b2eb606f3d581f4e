"""Economy classes: what a session may lose so that its state takes fewer bytes."""

from __future__ import annotations

from dataclasses import dataclass

from state_store.encodings.segments import Encoding
from state_store.errors import UnknownEconomy
from state_store.layout import Kind

LOSSLESS = "lossless"


@dataclass(frozen=True)
class Economy:
    """A class by its name, and how it stores each kind of object.

    What a class costs is measured by `torpor bench encodings`.
    """

    name: str
    kv: Encoding
    state: Encoding

    def encoding(self, kind: Kind) -> Encoding:
        return self.kv if kind == "kv" else self.state

    @property
    def lossy(self) -> bool:
        return (self.kv, self.state) != (Encoding.RAW, Encoding.RAW)


ECONOMIES = {
    economy.name: economy
    for economy in (
        Economy(LOSSLESS, Encoding.RAW, Encoding.RAW),
        Economy("kv-fp8", Encoding.FP8, Encoding.RAW),
        Economy("kv-int8", Encoding.INT8, Encoding.RAW),
        Economy("state-int8", Encoding.RAW, Encoding.INT8),
        # int8 for both: as small as fp8, quicker, and several times closer to the exact logits.
        Economy("compact", Encoding.INT8, Encoding.INT8),
    )
}


def economy_named(name: str) -> Economy:
    """Raises UnknownEconomy."""
    if name not in ECONOMIES:
        raise UnknownEconomy(
            f"{name!r} is not an economy class; use one of {', '.join(ECONOMIES)}."
        )
    return ECONOMIES[name]
