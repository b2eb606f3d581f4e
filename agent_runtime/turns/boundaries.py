"""Where in a turn a state is kept: the places that forks and rewinds start from.

    pages     |--|--|--|--|--|--|--|--|--|--|--|--|
    states          s     s     s     s  s     s      what the engine stored
    kept                  k           k  k     k
                     every interval ──┘  │     └── the turn's end: the snapshot's boundary
                     or a mark           └── the prompt's end: generate again from here

A state is of a fixed size, however many tokens it sums up. Closer together than the tokens whose
KV takes as many bytes, states would cost more than the KV between them; further apart, a fork
computes more tokens again. Hence the default interval is that number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.boundaries import break_even
from engine.records import EngineRecord


def interval_of(record: EngineRecord, setting: int | None) -> int:
    """Most tokens between the states kept inside a prompt, a multiple of the page size.

    setting: `RuntimeSettings.boundary_interval`; None for the break-even of the engine's model
    The engine leaves one state per prefill chunk, so the interval is never below that.
    """
    page = record.page_size
    if setting is None:
        setting = break_even(
            page_size=page,
            page_bytes=record.kv_object_bytes,
            state_bytes=record.state_object_bytes,
        )
    wanted = max(setting, record.prefill_chunk)
    return -(-wanted // page) * page


def kept(
    states: Sequence[int], *, prompt_pages: int, interval_pages: int, marks: Sequence[int] = ()
) -> tuple[int, ...]:
    """Which of the stored states to keep, the last one always among them.

    states:       counts of the turn's own pages, ascending, at whose ends a state is stored
    prompt_pages: whole own pages of the prompt; may be negative when it has none
    marks:        counts of own pages; the last state that is not behind one is kept
    """
    marked = {max((count for count in states if count <= mark), default=0) for mark in marks}
    prompt_end = max((count for count in states if count <= prompt_pages), default=0)
    keep: list[int] = []
    for place, count in enumerate(states, start=1):
        last = keep[-1] if keep else 0
        is_end = place == len(states)
        if (
            is_end
            or count == prompt_end
            or count in marked
            or states[place] - last > interval_pages
        ):
            keep.append(count)
    return tuple(keep)
