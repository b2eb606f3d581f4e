"""Labels: what sessions and snapshots are found by.

A label is written beside its session or snapshot, and listed among the tenant's, which is another
slot of a cluster: nothing changes both at once. (Sessions are listed by creation besides, so that
they are found a page at a time.) So a label is listed, written, and listed again,
and a search believes only what is written. What a crash leaves is listed and not written; it is
taken off the list by `recover`, or by a search that meets it a while later. The second listing is
for a `recover` that came between the first and the writing.

Labels are written only over those that were read. Who replaces them takes the old ones off their
lists, but what was listed again since then: whoever did that and has not written has to begin anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from state_store.connection import Call, Control, Script
from state_store.errors import CorruptObject, InvalidId, InvalidLabels, NotFound
from state_store.layout import (
    LineageKeys,
    TenantKeys,
    is_snapshot_id,
    label_of,
    lineage_of,
    lists_of_label,
    sessions_of_label,
)
from state_store.pages import Listed, Part, part_of
from state_store.records import LabelSet
from state_store.recovering import going_on_without

MOST = 32  # labels of one session or snapshot
LONGEST_NAME, LONGEST_VALUE = 64, 256  # characters
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-")
_UNWRITTEN = 60  # seconds after which a listed label that is not written is not about to be
_BATCH = 512
_GONE, _CHANGED = 0, -1  # what `lua/label.lua` returns, or 1

logger = logging.getLogger(__name__)

Label = tuple[str, str]
"""Name and value."""


def check_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Raises InvalidLabels, saying which."""
    checked = dict(labels or {})
    if len(checked) > MOST:
        raise InvalidLabels(f"{len(checked)} labels are more than {MOST}; nothing was changed.")
    for name, value in checked.items():
        if (flaw := _flaw_of(name, value)) is not None:
            raise _invalid(name, flaw)
    return checked


def is_label(name: str, value: str) -> bool:
    """Whether a label can be so; see `check_labels`."""
    return _flaw_of(name, value) is None


class Labels:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    def enlisting(self, tenant: str, any_id: str, labels: Mapping[str, str]) -> list[Script]:
        """To be done before the labels are written, and again after; nothing without labels."""
        keys = TenantKeys(self._prefix, tenant)
        pairs = [key for label in labels.items() for key in _pair(keys, label)]
        return [Script("enlist", [keys.sessions, *pairs], [any_id])] if pairs else []

    async def set(self, tenant: str, any_id: str, labels: Mapping[str, str]) -> None:
        """Replaces all labels. Raises NotFound, InvalidLabels."""
        checked = check_labels(labels)
        written = await self._write(tenant, any_id, checked)
        record = self._record(any_id)
        enlisting = self.enlisting(tenant, any_id, checked)
        *_, now = await self._control.exchange(enlisting, [("HGET", record, "labelled")])
        if written is None or now is None:  # perhaps it was deleted before it was listed
            await self.forget(tenant, any_id, checked)
        elif int(now) != written:  # perhaps others had taken it off its new lists before that, too
            await self._write(tenant, any_id, None, listed=checked.items())
        if written is None:
            raise NotFound(f"no {any_id}.")

    async def _write(
        self,
        tenant: str,
        any_id: str,
        wanted: dict[str, str] | None,
        *,
        listed: Iterable[Label] = (),
    ) -> int | None:
        """Write labels, or those that are written once more, and take what it carried, or is
        listed under, and does not carry now off its lists. How often labels had been written then;
        None if it is gone."""
        record, keys = self._record(any_id), TenantKeys(self._prefix, tenant)
        dropped: dict[Label, float] = {}  # and when they were listed, as seen before the writing
        reading = [("HMGET", record, "labels", "labelled")]
        while True:
            ((stored, times),) = await self._control.exchange(reading)
            before = labels_of(stored)
            after = before if wanted is None else wanted
            gone = [one for one in (*before.items(), *listed) if one not in after.items()]
            looking = [("ZSCORE", keys.label(*label), any_id) for label in gone]
            enlisting = self.enlisting(tenant, any_id, wanted or {})
            scores = await self._control.exchange([*looking, *enlisting])
            dropped |= {one: at or 0.0 for one, at in zip(gone, scores, strict=False)}
            packed = LabelSet(labels=after).pack()
            outcome = await self._control.run("label", [record], packed, times or 0)
            if outcome == _GONE:
                return None
            if outcome != _CHANGED:
                break
        rows = [(_pair(keys, one), any_id, at) for one, at in dropped.items()]
        await self._unlist(rows, older_than=0)
        return int(times or 0) + 1

    async def of(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The labels of sessions and snapshots; none for what has none or is not there. Raises
        CorruptObject, InvalidId."""
        return {one: labels_of(stored) for one, stored in await self._stored(ids)}

    async def _readable(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """As `of`, of what lists name. What cannot be read is logged and left out, and keeps nobody
        from the others."""
        found: dict[str, dict[str, str]] = {}
        named = []
        for one in ids:
            try:
                lineage_of(one)
                named.append(one)
            except InvalidId as error:
                logger.error("a label's list names what is no id: %s", error)
        for one, stored in await self._stored(named):
            try:
                found[one] = labels_of(stored)
            except CorruptObject as error:
                logger.error("the labels of %s cannot be read: %s", one, error)
        return found

    async def _stored(self, ids: Sequence[str]) -> list[tuple[str, bytes | None]]:
        found: list[tuple[str, bytes | None]] = []
        waiting = iter(ids)
        while batch := list(islice(waiting, _BATCH)):
            async with self._control.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for one in batch:
                    pipeline.hget(self._record(one), "labels")
                found += zip(batch, await pipeline.execute(), strict=True)
        return found

    async def part(
        self, tenant: str, labels: Mapping[str, str], *, limit: int, after: Listed | None
    ) -> Part:
        """Sessions that are listed under all of `labels`, newest first, from after a place on; at
        most `limit` are looked at."""
        keys = TenantKeys(self._prefix, tenant)
        lists = [keys.labelled(*label) for label in labels.items()]
        async with self._control.guard() as client:
            if len(lists) > 1:
                pipeline = client.pipeline(transaction=False)
                for one in lists:
                    pipeline.zcard(one)
                counts = await pipeline.execute()
                lists = [one for _, one in sorted(zip(counts, lists, strict=True))]
            fewest, *others = lists
            part = await part_of(client, fewest, limit=limit, after=after)
            pipeline = client.pipeline(transaction=False)
            for one in others if part.places else ():
                pipeline.zmscore(one, [place.id for place in part.places])
            scores = await pipeline.execute() if len(pipeline) else []
        under_all = [
            place for place, *rest in zip(part.places, *scores, strict=True) if None not in rest
        ]
        return Part(under_all, part.end)

    async def find_snapshots(self, tenant: str, labels: Mapping[str, str]) -> list[str]:
        """Ids of those that carry all of `labels`."""
        wanted = wanted_labels(labels)
        keys = TenantKeys(self._prefix, tenant)
        found = await self._control.run("labelled", [keys.label(*one) for one in wanted.items()])
        ids = [raw.decode() for raw in found if is_snapshot_id(raw.decode())]
        return await self.carrying(tenant, wanted, await self._readable(ids))

    async def carrying(
        self, tenant: str, wanted: Mapping[str, str], written: Mapping[str, Mapping[str, str]]
    ) -> list[str]:
        """Of what was found listed under labels, the ids that carry them all; others are taken off
        the lists in time. written: the labels of each"""
        missing = [
            (label, one)
            for one, labels in written.items()
            for label in wanted.items()
            if label not in labels.items()
        ]
        await self._drop(tenant, missing)
        return [one for one, labels in written.items() if wanted.items() <= labels.items()]

    async def forget(self, tenant: str, any_id: str, labels: Mapping[str, str]) -> None:
        """It is gone, and will not be again."""
        await forget_labels(self._control, self._prefix, tenant, any_id, labels)

    async def recover(self, *, older_than: float) -> None:
        """Take what is not written off the lists that it has been on for so many seconds, and list
        by creation the sessions that were labelled before there was such a list."""
        async for keys in self._control.scan(f"{self._prefix}:{{tenant:*}}:label:*"):
            for raw in keys:
                with going_on_without(f"label {raw!r}"):
                    await self._recover(raw.decode(), older_than)

    async def _recover(self, key: str, older_than: float) -> None:
        label = label_of(key)
        assert label is not None, "keys of labels are looked at"
        async with self._control.guard() as client:
            rows = [
                (raw.decode(), at) for raw, at in await client.zrange(key, 0, -1, withscores=True)
            ]
        written = await self._readable([one for one, _ in rows])
        rows = [(one, at) for one, at in rows if one in written]
        stale = [
            (lists_of_label(key), one, at) for one, at in rows if label not in written[one].items()
        ]
        await self._unlist(stale, older_than=older_than)
        lists = lists_of_label(key)
        async with self._control.guard() as client:
            by_creation = set(await client.zrange(lists[1], 0, -1))
        unlisted = [
            one
            for one, _ in rows
            if label in written[one].items()
            and not is_snapshot_id(one)
            and one.encode() not in by_creation
        ]
        for start in range(0, len(unlisted), _BATCH):
            calls: list[Call] = [
                ([sessions_of_label(key), *lists], [one])
                for one in unlisted[start : start + _BATCH]
            ]
            await self._control.run_many("enlist", calls)

    async def _drop(self, tenant: str, unwritten: Sequence[tuple[Label, str]]) -> None:
        """Take ids off the lists of labels that they do not carry, unless somebody may be about to
        write them."""
        if not unwritten:
            return
        keys = TenantKeys(self._prefix, tenant)
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for label, one in unwritten:
                pipeline.zscore(keys.label(*label), one)
            listed = await pipeline.execute()
        rows = [
            (_pair(keys, label), one, at or 0.0)
            for (label, one), at in zip(unwritten, listed, strict=True)
        ]
        await self._unlist(rows, older_than=_UNWRITTEN)

    async def _unlist(
        self, rows: Iterable[tuple[tuple[str, str], str, float]], *, older_than: float
    ) -> None:
        """rows: keys of a label, id, and when it was listed there."""
        calls = [(pair, [one, repr(at), older_than]) for pair, one, at in rows]
        for start in range(0, len(calls), _BATCH):
            await self._control.run_many("unlist", calls[start : start + _BATCH])

    def _record(self, any_id: str) -> str:
        keys = LineageKeys(self._prefix, lineage_of(any_id))
        return keys.snapshot(any_id) if is_snapshot_id(any_id) else keys.session(any_id)


async def forget_labels(
    control: Control, prefix: str, tenant: str, any_id: str, labels: Mapping[str, str]
) -> None:
    """Take what is gone, and will not be again, off the lists of its labels."""
    keys = TenantKeys(prefix, tenant)
    # Who is on a label's list can still be taken off the other.
    lists = [key for label in labels.items() for key in reversed(_pair(keys, label))]
    await control.exchange([("ZREM", key, any_id) for key in lists])


def labels_of(stored: bytes | None) -> dict[str, str]:
    """Of a record, as it is stored. Raises CorruptObject."""
    return {} if not stored else LabelSet.unpack(stored).labels


def wanted_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """To search for. Raises InvalidLabels."""
    wanted = check_labels(labels)
    if not wanted:
        raise InvalidLabels("give at least one label to search for.")
    return wanted


def _pair(keys: TenantKeys, label: Label) -> tuple[str, str]:
    """The two lists of a label."""
    return keys.label(*label), keys.labelled(*label)


def _flaw_of(name: object, value: object) -> str | None:
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
        return f"a name has 1 to {LONGEST_NAME} characters"
    if not _NAME_CHARACTERS.issuperset(name):
        return "a name has letters, digits, dots, dashes, slashes, underscores"
    if not isinstance(value, str) or len(value) > LONGEST_VALUE or not value.isprintable():
        return f"a value is at most {LONGEST_VALUE} printable characters"
    return None


def _invalid(name: object, why: str) -> InvalidLabels:
    return InvalidLabels(f"label {name!r:.80}: {why}; nothing was changed.")
