"""Ending an answer at a text that the client names.

The engine deals in tokens and knows no texts, so the runtime watches what it decodes. Everything up
to the token that completes the text stays in the history, as the model has it in its state. What
the client reads ends before the text.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopWatch:
    """Passes text on, and holds back what may become one of the texts it waits for.

    found: the one that came, None while none has
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Take the next piece; the text that is certain to come before any of the texts."""
        text = self._held + piece
        begun = [(text.find(one), one) for one in self._texts if one in text]
        if begun:
            end, self.found = min(begun, key=lambda place: (place[0], -len(place[1])))
            self._held = ""
            return text[:end]
        held = max((_overlap(text, one) for one in self._texts), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back and became none of them."""
        held, self._held = self._held, ""
        return held


def text_before(text: str, stop: str | None) -> str:
    """`text` up to the first `stop`, if there is one."""
    return text if stop is None else text.partition(stop)[0]


def _overlap(text: str, one: str) -> int:
    """Characters at the end of `text` that `one` begins with."""
    most = min(len(text), len(one) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(one[:n])), 0)
