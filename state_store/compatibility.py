"""Whether an engine can go on from stored state: a decision with its reasons.

    reuse      everything agrees: the engine loads the state
    reprefill  the state is of no use to this engine, but it runs the same model: it reads the
               tokens again
    refuse     another model would go on with the session, or the token ids mean another text here

Each field has one rule, and every rule says why. The decision is that of the strictest rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from state_store.fingerprint import Fingerprint

Verdict = Literal["reuse", "reprefill", "refuse"]


class Reason(NamedTuple):
    """A field that differs. `stored` and `engine` are its values, `why` is what follows."""

    field: str
    stored: Any
    engine: Any
    why: str
    verdict: Verdict

    @property
    def difference(self) -> str:
        """The field and its two values; long ones are cut."""
        return f"{self.field}: stored {_short(self.stored)}, engine {_short(self.engine)}"


@dataclass(frozen=True)
class Decision:
    """reasons: one per field that differs, in the order of the fields; none if all agree."""

    reasons: tuple[Reason, ...]

    @property
    def verdict(self) -> Verdict:
        return max((reason.verdict for reason in self.reasons), key=_STRICT.index, default="reuse")


def compatibility(stored: Fingerprint, engine: Fingerprint) -> Decision:
    """Whether `engine` may go on from state with the fingerprint `stored`."""
    return Decision(
        tuple(
            Reason(field, theirs, ours, *_RULES[field])
            for field in Fingerprint.model_fields
            if (theirs := getattr(stored, field)) != (ours := getattr(engine, field))
        )
    )


class _Rule(NamedTuple):
    why: str
    verdict: Verdict


_STRICT: tuple[Verdict, ...] = ("reuse", "reprefill", "refuse")
_LAYOUT = "the bytes of a page or state lie otherwise, and would be read as other numbers"
_RULES = {
    "weights": _Rule(
        "keys, values and states are what these weights made of the text; others would read "
        "them as noise, fluently, and answer as another model does",
        "refuse",
    ),
    "architecture": _Rule(
        "the config decides what layers there are and how they compute (rope, norms, time step "
        "limits): state of another computation, and another model's answers",
        "refuse",
    ),
    "tokenizer": _Rule(
        "the token log holds ids, and these ids may spell another text or other turn marks",
        "refuse",
    ),
    "kv_dtype": _Rule(
        "keys and values are stored in the bits of their dtype; converting them would change "
        "the continuation",
        "reprefill",
    ),
    "conv_dtype": _Rule(
        "the convolution state is stored in the bits of its dtype; converting it would change "
        "the continuation",
        "reprefill",
    ),
    "ssm_dtype": _Rule(
        "the SSM state is stored in the bits of its dtype, and its rounding adds up over the "
        "whole history",
        "reprefill",
    ),
    "page_size": _Rule(
        "a page holds the keys and values of other tokens, and page names chain over other "
        "boundaries",
        "reprefill",
    ),
    "kv_payload_bytes": _Rule(_LAYOUT, "reprefill"),
    "state_payload_bytes": _Rule(_LAYOUT, "reprefill"),
    "kv_segments": _Rule(_LAYOUT, "reprefill"),
    "state_segments": _Rule(_LAYOUT, "reprefill"),
    "tp_size": _Rule(
        "each rank stores its own heads and channels; another number of ranks cuts them elsewhere",
        "reprefill",
    ),
    "draft": _Rule(
        "a page carries the draft's keys and values too; without them, or with those of another "
        "draft, speculation would start from nothing it ever computed",
        "reprefill",
    ),
    "bigram": _Rule(
        "pages are named over pairs of tokens in one and single tokens in the other, so no "
        "name would be found",
        "reprefill",
    ),
    "engine": _Rule(
        "the order of the bytes in pages and states is promised within one version of the "
        "engine and its state format only",
        "reprefill",
    ),
}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
