"""How much a tenant may have.

Each lineage counts its snapshots' bytes and tokens beside them, in the scripts that commit and
bury, those of its effects where they are recorded, and those of attachments, and of files that no
snapshot holds yet, where they are kept. A tenant's slot has a copy of each lineage's totals, with
their version, so that a late copy never takes the place of a newer one. Attachments and such files
expire by themselves: what is left of them is counted when all is copied anew. Lists of items and
notes lie in the tenant's slot, and are counted there by the scripts that change them.

    reserve ──────────> add ──────────> mirror
    room in the         a commit,       the lineage's new totals
    tenant's slot       elsewhere       take the place of the room

What a commit may add is checked against the sum of copies and of what others hold room for. The sum
is kept beside the copies and changes with them: asking costs the same however many there are. One
that is missing or unreadable is made by who asks, and one that differs from what it sums is dropped
by who makes the copies anew. Nobody is refused for an old copy: before that all of the tenant's
copies are made anew; nor, for a moment, for room that is held: its writer may be done. Room of a
writer that died is free after a while.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from state_store.connection import Call, Control, Script
from state_store.errors import InvalidArgument, QuotaExceeded
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.recovering import going_on_without

_BATCH = 512
_TOTALS = ("version", "tokens", "bytes", "effects", "attached", "loose")
SUM = b"sum"  # of all copies, among them; see `lua/quota.lua`
_COPY = re.compile(rb"\d+:(\d+):(\d+)")  # version, bytes, tokens
_SUM = re.compile(rb"(\d+):(\d+)")  # bytes, tokens
_NOTES = "notes"  # where the bytes of all notes are counted
_ITEMS = "items:"  # before the name of a list, where its bytes are counted
_HELD = 120  # seconds; a commit takes a few
_PATIENCE = 1.0  # seconds to wait for others that hold room
_POLL = 0.02
_ADVICE = "Delete or rewind sessions, or raise the quota."


@dataclass(frozen=True)
class Quota:
    """None for as much as there is room for.

    bytes:    of what snapshots pin, on all ranks, as on the device; what several lineages share
              counts for each; of files that go with them or are about to, of records of
              effects, of attachments, of items, and of notes
    tokens:   in the token logs
    sessions: of all lineages
    """

    bytes: int | None = None
    tokens: int | None = None
    sessions: int | None = None


@dataclass(frozen=True)
class Room:
    """In a tenant's quota, held for something that is about to be added."""

    tenant: str
    id: str


def counted_as(items: str) -> str:
    """Under which name a list of items is counted among a tenant's lineages."""
    return f"{_ITEMS}{items}"


class Quotas:
    """See the methods of the same names in `StateStore`."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix

    async def set(self, tenant: str, quota: Quota) -> None:
        """Raises InvalidArgument."""
        negative = [name for name, limit in vars(quota).items() if limit is not None and limit < 0]
        if negative:
            raise InvalidArgument(
                f"a quota of less than nothing ({', '.join(negative)}); it was not changed. Give 0 "
                "to refuse all that adds, None for no limit."
            )
        fields = {"bytes": quota.bytes, "tokens": quota.tokens, "sessions": quota.sessions}
        limits = {name: limit for name, limit in fields.items() if limit is not None}
        keys = TenantKeys(self._prefix, tenant)
        async with self._control.guard() as client:
            if limits:
                await client.hset(keys.quota, mapping=limits)
            if len(limits) < len(fields):
                await client.hdel(keys.quota, *(fields.keys() - limits.keys()))
        if limits:
            await self.refresh(tenant)

    async def get(self, tenant: str) -> Quota:
        async with self._control.guard() as client:
            limits = await client.hmget(
                TenantKeys(self._prefix, tenant).quota, "bytes", "tokens", "sessions"
            )
        return Quota(*(None if limit is None else int(limit) for limit in limits))

    async def require_room(self, tenant: str, *, bytes: int, tokens: int) -> None:
        """Raises QuotaExceeded if so much more would exceed what the tenant may have, whatever
        others hold room for. Holds nothing: `reserve` decides."""
        more = {"bytes": bytes, "tokens": tokens}
        if not await self._exceeded(tenant, more):
            return
        await self.refresh(tenant)
        if exceeded := await self._exceeded(tenant, more):
            what, limit, has = exceeded
            raise QuotaExceeded(
                f"tenant {tenant} may have {limit} {what}, has {has}, and this would add at least "
                f"{more[what]}; nothing was begun. {_ADVICE}"
            )

    async def reserve(
        self, tenant: str, *, bytes: int = 0, tokens: int = 0, sessions: int = 0
    ) -> Room | None:
        """Room for so much more, to be given back by `release`, or by `mirror` when it is counted;
        None if the tenant has no quota. Raises QuotaExceeded."""
        room = Room(tenant, secrets.token_hex(8))
        keys = TenantKeys(self._prefix, tenant)
        reply = await self.within(
            tenant,
            Script(
                "reserve",
                [keys.quota, keys.usage, keys.sessions, keys.reserved],
                [room.id, bytes, tokens, sessions, _HELD],
            ),
        )
        return room if reply else None

    async def within(self, tenant: str, script: Script) -> list[Any]:
        """Run a script that does nothing where the quota has too little room, and says of what, see
        `lua/reserve.lua`; what it returns otherwise. Raises QuotaExceeded."""
        give_up_at = None
        while True:
            reply: list[Any] = await self._control.run(script.name, script.keys, *script.arguments)
            if not reply or reply[0] != b"full":
                return reply
            raw, limit, has, more, held = reply[1:]
            if give_up_at is None:
                await self.refresh(tenant)
                give_up_at = time.monotonic() + _PATIENCE
            elif has + more <= limit and time.monotonic() < give_up_at:
                await asyncio.sleep(_POLL)
            else:
                break
        what = raw.decode()
        under_way = f", {held} of them under way" if held else ""
        raise QuotaExceeded(
            f"tenant {tenant} may have {limit} {what}, has {has + held}{under_way}, and this would "
            f"add {more}; nothing was committed. {_ADVICE}"
        )

    async def release(self, room: Room | None) -> None:
        """Give room back that was not used, or is counted otherwise."""
        if room is not None:
            async with self._control.guard() as client:
                await client.hdel(TenantKeys(self._prefix, room.tenant).reserved, room.id)

    async def mirror(
        self, tenant: str, lineages: Iterable[str], *, room: Room | None = None
    ) -> None:
        """Copy what lineages have now to where the tenant's quota is checked; room: that was held
        for what one of them has now."""
        keys = TenantKeys(self._prefix, tenant)
        waiting = iter(lineages)
        while batch := list(islice(waiting, _BATCH)):
            async with self._control.guard() as client:
                pipeline = client.pipeline(transaction=False)
                for lineage in batch:
                    pipeline.hmget(self._of(lineage).usage, *_TOTALS)
                    pipeline.exists(self._of(lineage).sessions)
                replies = await pipeline.execute()
            calls: list[Call] = []
            where = [keys.usage, keys.quota, keys.reserved]
            used = "" if room is None else room.id
            for lineage, totals, lives in zip(batch, replies[::2], replies[1::2], strict=True):
                version, tokens, *sizes = totals
                if version is not None:
                    size = sum(int(one or 0) for one in sizes)
                    calls.append((where, [lineage, version, size, int(tokens or 0), used]))
                elif not lives:
                    calls.append((where, [lineage, "", 0, 0, used]))
            await self._control.run_many("mirror", calls)

    async def refresh(self, tenant: str) -> None:
        """Make all of a tenant's copies anew, and drop those of lineages that are no more, and a
        sum that is not theirs."""
        keys = TenantKeys(self._prefix, tenant)
        async with self._control.guard() as client:
            copies = await client.hgetall(keys.usage)
            if wrong_sum(copies):
                await client.hdel(keys.usage, SUM)
            listed = [raw.decode() for raw in await client.zrange(keys.sessions, 0, -1)]
        known = {raw.decode() for raw in copies if raw != SUM}
        lists = sorted(name for name in known if name.startswith(_ITEMS))
        await self._control.run_many(
            "clear_items",
            [([keys.items(one.removeprefix(_ITEMS)), keys.usage], [one, 0]) for one in lists],
        )
        await self._control.run("count_notes", keys.places_of_notes)
        known.difference_update([*lists, _NOTES])
        lineages = known | {lineage_of(session_id) for session_id in listed}
        await count_attached(self._control, self._prefix, lineages)
        await self._control.run_many(
            "loose_files", [(self._of(o).places_of_loose, []) for o in lineages]
        )
        await self.mirror(tenant, sorted(lineages))

    async def recover(self) -> None:
        """Refresh all tenants that have, or had, a quota."""
        before = f"{self._prefix}:{{tenant:"
        async for found in self._control.scan(f"{before}*}}:usage"):
            for key in found:
                with going_on_without(f"the quota at {key!r}"):
                    await self.refresh(key.decode().removeprefix(before).removesuffix("}:usage"))

    async def _exceeded(self, tenant: str, more: Mapping[str, int]) -> tuple[str, int, int] | None:
        """What so much more would exceed: its name, the limit, and what the tenant has of it."""
        keys = TenantKeys(self._prefix, tenant)
        async with self._control.guard() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(keys.quota, *more)
            pipeline.hget(keys.usage, SUM)
            limits, written = await pipeline.execute()
            if limits == [None] * len(limits):
                return None
            found = _SUM.fullmatch(written or b"")
            if found is None:  # not made yet
                found = _SUM.fullmatch(_sum_of(await client.hgetall(keys.usage)))
        assert found is not None, "a sum is what is written as one"
        has = dict(zip(("bytes", "tokens"), map(int, found.groups()), strict=True))
        for (what, added), limit in zip(more.items(), limits, strict=True):
            if limit is not None and added and has[what] + added > int(limit):
                return what, int(limit), has[what]
        return None

    def _of(self, lineage: str) -> LineageKeys:
        return LineageKeys(self._prefix, lineage)


def wrong_sum(copies: Mapping[bytes, bytes]) -> tuple[bytes, bytes] | None:
    """The sum among a tenant's copies and what it should be, if they differ. None if it is right,
    or not made yet.

    copies: all fields, read as one
    """
    written = copies.get(SUM)
    right = _sum_of(copies)
    return None if written in (None, right) else (written, right)


def _sum_of(copies: Mapping[bytes, bytes]) -> bytes:
    found = [_COPY.fullmatch(copy) for name, copy in copies.items() if name != SUM]
    sums = (sum(int(one[at]) for one in found if one) for at in (1, 2))
    return b"%d:%d" % tuple(sums)


async def count_attached(control: Control, prefix: str, lineages: Iterable[str]) -> int:
    """Bytes of what is kept with the sessions of these, see `attachments.py`, counted anew."""
    found = 0
    waiting = iter(lineages)
    while batch := list(islice(waiting, _BATCH)):
        keys = [LineageKeys(prefix, lineage) for lineage in batch]
        calls: list[Call] = [([one.sessions, one.usage], [one.attachments("")]) for one in keys]
        found += sum(await control.run_many("count_attached", calls))
    return found
