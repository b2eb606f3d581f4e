"""Records of effects in exported sessions: what tools did before, wherever the session goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent_runtime.messages.points import points_of
from agent_runtime.sessions.ledger import IMPORTED
from agent_runtime.sessions.ledger_records import entries_of, name_of, name_of_imported, packed
from state_store.errors import CorruptObject
from state_store.portable.besides import EffectsAbroad, Ids
from state_store.records import Session, Snapshot
from tools.effects import Entry


class LedgerAbroad(EffectsAbroad):
    """In the file, and where it was imported, they are of the branch `IMPORTED`: every session that
    goes on from there has inherited them."""

    def leaving(
        self, values: Iterable[bytes], session: Session, history: Sequence[Snapshot], ids: Ids
    ) -> list[bytes]:
        points = points_of(history)
        following = [*(one.session_id for one in points[1:]), session.id]
        branches = {
            one.id: {one.session_id, after, IMPORTED}
            for one, after in zip(points, following, strict=True)
        }
        places = {one.id: ids[one.within] for one in points}
        found: dict[str, list[Entry]] = {}
        for one in sorted(entries_of(values), key=lambda one: (one.at, one.position)):
            if one.branch in branches.get(one.point, ()):
                there = one.model_copy(update={"branch": IMPORTED, "point": places[one.point]})
                found.setdefault(name_of(one), []).append(there)
        return [packed(entries) for entries in found.values()]

    def arriving(self, value: bytes, ids: Ids) -> tuple[str, bytes]:
        try:
            entries = entries_of([value])
        except CorruptObject as error:
            raise ValueError(str(error)) from error
        if len({name_of(one) for one in entries}) != 1:
            raise ValueError("it is not of one effect")
        if any(one.branch != IMPORTED or one.point not in ids for one in entries):
            raise ValueError("it is of no snapshot of the session")
        moved = [one.model_copy(update={"point": ids[one.point]}) for one in entries]
        return name_of_imported(entries[0]), packed(moved)
