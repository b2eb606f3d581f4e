"""Labels: what sessions and snapshots are found by.

A label is written beside its session or snapshot, and listed among the tenant's, which is another
slot of a cluster: nothing changes both at once. So a label is listed, written, and listed again,
and a search believes only what is written. What a crash leaves is listed and not written; it is
taken off the list by `recover`, or by a search that meets it a while later. The second listing is
for a `recover` that came between the first and the writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from state_store.connection import Control
from state_store.errors import InvalidLabels, NotFound
from state_store.layout import LineageKeys, TenantKeys, is_snapshot_id, label_of, lineage_of
from state_store.records import LabelSet

MOST = 32  # labels of one session or snapshot
LONGEST_NAME, LONGEST_VALUE = 64, 256  # characters
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-")
_UNWRITTEN = 60  # seconds after which a listed label that is not written is not about to be
_BATCH = 512


def check_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Raises InvalidLabels, saying which."""
    checked = dict(labels or {})
    if len(checked) > MOST:
        raise InvalidLabels(f"{len(checked)} labels are more than {MOST}; nothing was changed.")
    for name, value in checked.items():
        if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
            raise _invalid(name, f"a name has 1 to {LONGEST_NAME} characters")
        if not _NAME_CHARACTERS.issuperset(name):
            raise _invalid(name, "a name has letters, digits, dots, dashes, slashes, underscores")
        if not isinstance(value, str) or len(value) > LONGEST_VALUE or not value.isprintable():
            raise _invalid(name, f"a value is at most {LONGEST_VALUE} printable characters")
    return checked


class Labels:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def enlist(self, tenant: str, any_id: str, labels: Mapping[str, str]) -> None:
        """To be done before the labels are written, and again after."""
        if labels:
            await self._control.run("enlist", self._keys(tenant, labels), any_id)

    async def set(self, tenant: str, any_id: str, labels: Mapping[str, str]) -> None:
        """Replaces all labels. Raises NotFound, InvalidLabels."""
        checked = check_labels(labels)
        before = (await self.of([any_id]))[any_id]
        await self.enlist(tenant, any_id, checked)
        record = self._record(any_id)
        if not await self._control.run("label", [record], LabelSet(labels=checked).pack()):
            raise NotFound(f"no {any_id}.")
        await self.enlist(tenant, any_id, checked)
        dropped = dict(before.items() - checked.items())
        if dropped:
            rows = await self._listed(tenant, dropped, any_id)
            await self._unlist(rows, older_than=_UNWRITTEN)

    async def of(self, ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The labels of sessions and snapshots; none for what has none or is not there."""
        found: dict[str, dict[str, str]] = {}
        waiting = iter(ids)
        while batch := list(islice(waiting, _BATCH)):
            async with self._control.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for one in batch:
                    pipeline.hget(self._record(one), "labels")
                rows = await pipeline.execute()
            for one, stored in zip(batch, rows, strict=True):
                found[one] = {} if stored is None else LabelSet.unpack(stored).labels
        return found

    async def find(self, tenant: str, labels: Mapping[str, str], *, snapshots: bool) -> list[str]:
        """Ids of the sessions, or of the snapshots, that carry all of `labels`."""
        wanted = check_labels(labels)
        if not wanted:
            raise InvalidLabels("give at least one label to search for.")
        keys = self._keys(tenant, wanted)
        rows = [
            (raw.decode(), scores)
            for raw, *scores in await self._control.run("labelled", keys)
            if is_snapshot_id(raw.decode()) is snapshots
        ]
        written = await self.of([one for one, _ in rows])
        await self._unlist(
            [
                (key, one, float(score))
                for one, scores in rows
                for key, score, label in zip(keys, scores, wanted.items(), strict=True)
                if label not in written[one].items()
            ],
            older_than=_UNWRITTEN,
        )
        return [one for one, _ in rows if wanted.items() <= written[one].items()]

    async def forget(self, tenant: str, any_id: str, labels: Mapping[str, str]) -> None:
        """It is gone, and will not be again."""
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in self._keys(tenant, labels):
                pipeline.zrem(key, any_id)
            if labels:
                await pipeline.execute()

    async def recover(self, *, older_than: float) -> None:
        """Take what is not written off the lists that it has been on for so many seconds."""
        async for keys in self._control.scan(f"{self._prefix}:{{tenant:*}}:label:*"):
            for raw in keys:
                await self._recover(raw.decode(), older_than)

    async def _recover(self, key: str, older_than: float) -> None:
        label = label_of(key)
        async with self._control.guard() as client:
            rows = [
                (raw.decode(), at) for raw, at in await client.zrange(key, 0, -1, withscores=True)
            ]
        written = await self.of([one for one, _ in rows])
        stale = [(key, one, at) for one, at in rows if label not in written[one].items()]
        await self._unlist(stale, older_than=older_than)

    async def _listed(
        self, tenant: str, labels: Mapping[str, str], any_id: str
    ) -> list[tuple[str, str, float]]:
        keys = self._keys(tenant, labels)
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.zscore(key, any_id)
            scores = await pipeline.execute()
        return [(k, any_id, at) for k, at in zip(keys, scores, strict=True) if at is not None]

    async def _unlist(self, rows: Iterable[tuple[str, str, float]], *, older_than: float) -> None:
        """rows: key of a label, id, and when it was listed there."""
        calls = [([key], [one, repr(at), older_than]) for key, one, at in rows]
        for start in range(0, len(calls), _BATCH):
            await self._control.run_many("unlist", calls[start : start + _BATCH])

    def _keys(self, tenant: str, labels: Mapping[str, str]) -> list[str]:
        keys = TenantKeys(self._prefix, tenant)
        return [keys.label(name, value) for name, value in labels.items()]

    def _record(self, any_id: str) -> str:
        keys = LineageKeys(self._prefix, lineage_of(any_id))
        return keys.snapshot(any_id) if is_snapshot_id(any_id) else keys.session(any_id)


def _invalid(name: object, why: str) -> InvalidLabels:
    return InvalidLabels(f"label {name!r:.80}: {why}; nothing was changed.")
