"""Which checkpoints may go.

A delta channel stores its value only now and then; in between it is rebuilt from the writes of the
checkpoints before. So a checkpoint that is kept keeps those before it, as far back as one that has
the value of each of its delta channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent_runtime.saver.keys import Place, value_field
from agent_runtime.saver.reading import Row


def needed(kept: Iterable[Place], rows: Mapping[Place, Row], stored: set[str]) -> set[Place]:
    """`kept` and the checkpoints that their delta channels are rebuilt from.

    stored: value fields that are there
    """
    found: set[Place] = set()
    for place in kept:
        found.add(place)
        if place not in rows:
            continue
        # LangGraph 1.2 counts each delta channel's steps since its last stored value here.
        counted: Any = rows[place].metadata.get("counters_since_delta_snapshot") or {}
        wanting, row = set(counted), rows[place]
        while wanting := _without_value(place, row, wanting, stored):
            place = Place(place.namespace, row.parent or "")
            if place not in rows:
                break
            found.add(place)
            row = rows[place]
    return found


def _without_value(place: Place, row: Row, channels: set[str], stored: set[str]) -> set[str]:
    versions = row.checkpoint["channel_versions"]
    return {
        channel
        for channel in channels
        if channel not in versions
        or value_field(place.namespace, channel, versions[channel]) not in stored
    }
