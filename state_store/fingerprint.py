"""What must agree for stored state to be usable: the model, its shapes, and how it is split."""

from __future__ import annotations

import hashlib
from functools import cached_property

import msgpack
from pydantic import BaseModel, ConfigDict, model_validator

from state_store.encodings.segments import PayloadLayout, Segment
from state_store.layout import KINDS, Kind


class Fingerprint(BaseModel):
    """Identity of a state format. Two engines share state exactly if all of it is equal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: str
    """Digest of the checkpoint's weight files."""
    architecture: str
    """Digest of the model's config, and of what the engine was told to compute otherwise."""
    tokenizer: str
    """Digest of tokenizer and chat template: token ids mean the same text."""
    kv_dtype: str
    conv_dtype: str
    ssm_dtype: str
    page_size: int
    """Tokens per page."""
    kv_payload_bytes: int
    """Bytes per page and rank, draft KV included."""
    state_payload_bytes: int
    """Bytes of one Mamba state per rank."""
    kv_segments: tuple[Segment, ...]
    """The tensors that a page is the concatenation of, per rank."""
    state_segments: tuple[Segment, ...]
    """The tensors that a state is the concatenation of, per rank."""
    tp_size: int
    draft: str
    """How the engine speculates: `mtp:<layers>`, `mtp:<layers>:<digest>` with a draft from a
    checkpoint of its own, or `none`."""
    bigram: bool
    """Whether pages are named over token pairs (engines that speculate) or single tokens."""
    engine: str
    """Engine and version of the layout that its pools are stored in."""

    @model_validator(mode="after")
    def _segments_make_up_the_payload(self) -> Fingerprint:
        sizes = {"kv": self.kv_payload_bytes, "state": self.state_payload_bytes}
        for kind in KINDS:
            found = self.layout(kind).payload_bytes
            if found != sizes[kind]:
                raise ValueError(
                    f"the {kind} segments have {found} bytes, the payload {sizes[kind]}"
                )
        return self

    def layout(self, kind: Kind) -> PayloadLayout:
        """What the bytes of one kind of payload are, for encoding and decoding them."""
        return PayloadLayout(self.kv_segments if kind == "kv" else self.state_segments)

    @cached_property
    def id(self) -> str:
        """32 hex digits over all fields."""
        fields = sorted(self.model_dump(mode="json").items())
        return hashlib.sha256(msgpack.packb(fields)).hexdigest()[:32]
