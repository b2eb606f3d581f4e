"""The engines that may serve a session, as the runtime sees them.

Engines announce themselves in the store with a heartbeat. Payload never passes through here:
`prefetch` and `settle` are commands to the linker in the engine's scheduler processes.

    heartbeat in the store?  fits the session?  draining?  put aside?  answers on its port?
            no ─ gone            no ─ not it     yes ─ no     yes ─ last     no ─ put aside
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import astuple
from typing import Any, TypeVar

from engine.client import EngineClient, Load
from engine.errors import EngineUnreachable, NoEngine
from engine.linker.config import prefetching, settling, watched
from engine.records import EngineRecord, readable
from engine.refusals import of_another_format
from engine.replies import (
    EngineCounts,
    Held,
    Prefetch,
    SessionWork,
    Settled,
    Whereabouts,
    counts_of,
    in_place,
    settled_of,
    work_of,
)
from engine.waiting import WATCH, unless_gone
from state_store.errors import EngineFailed, EngineSilent, StoreUnavailable
from state_store.forms import FormName
from state_store.store import StateStore

logger = logging.getLogger(__name__)

HANGS = 30.0  # seconds that an engine may show less than all signs of life
PUT_ASIDE = 10.0  # seconds that an engine which failed gets no turn while another can take it
_LOOK = 2.0  # seconds that an engine gets to answer a look
_FRESH = 1.0  # seconds that a look at an engine is good for
_FORGET = 60.0  # seconds without a heartbeat after which an engine is not waited for any more

_T = TypeVar("_T")
Address = Callable[[str], str]
"""Of commands of one kind, by the engine's boot id."""


class _Signs(enum.Enum):
    """Of life, that an engine gives."""

    ALL = "it answers and gives a heartbeat"
    SILENT = "it does not answer, though its heartbeat goes on"
    BEATLESS = "it answers, but its schedulers give no heartbeat"
    UNKNOWN = "it does not answer, and without the store its heartbeat cannot be seen"
    NONE = "it neither answers nor gives a sign of life"


class Engine:
    """One live engine: its record, its HTTP client and its linker's commands."""

    def __init__(self, record: EngineRecord, store: StateStore) -> None:
        self.record = record
        self.client = EngineClient(record.url)
        self.load: Load | None = None
        """At the last look; None when it did not say."""
        self.turns = 0
        """Turns of this runtime that it is running."""
        self.seen_at = time.monotonic()
        """When it last had a heartbeat."""
        self._looked_at = float("-inf")
        self._heard_at = float("-inf")
        self._store = store

    async def prefetch(
        self,
        hashes: Sequence[str],
        *,
        timeout: float,
        form: FormName | None = None,
        session_id: str | None = None,
    ) -> Prefetch:
        """Stage the page chain `hashes` and the state at its end in the engine's host memory.

        form: here and below, in which the chain's objects are stored; session_id: whose `progress`
        it is
        Raises EngineUnreachable if the engine's linker does not answer within `timeout` s.
        """
        payload = {**_chain(hashes, form), "session": session_id}
        replies = await self._command("prefetch", payload, timeout, at=prefetching)
        reasons = sorted({reply["reason"] for reply in replies if reply["reason"]})
        return Prefetch(
            pages=min(reply["pages"] for reply in replies),
            state=all(reply["state"] for reply in replies),
            bytes_read=sum(reply["bytes_read"] for reply in replies),
            reason="; ".join(reasons) or None,
        )

    async def announce(
        self, hashes: Sequence[str], *, timeout: float, form: FormName | None = None
    ) -> None:
        """Let it know of the page chain `hashes` and the state at its end, in case a router sends
        the session there. Nothing is read until then."""
        await self._command("announce", _chain(hashes, form), timeout)

    async def renew(
        self, hashes: Sequence[str], *, timeout: float, form: FormName | None = None
    ) -> int:
        """Keep the stored objects of `hashes` alive; how many had expired and must be stored anew.

        For pages that no snapshot of the session holds yet: ones that it shares with others.
        """
        replies = await self._command("renew", _chain(hashes, form), timeout)
        return sum(int(reply["forgotten"]) for reply in replies)

    async def settle(
        self, hashes: Sequence[str], *, timeout: float, form: FormName | None = None
    ) -> Settled:
        """Wait for queued offloads; what of `hashes` is stored then.

        A boundary is restorable when all ranks stored every page up to it and the state at it.
        What could not be stored, or was not taken, is offered to the store once more.
        """
        payload = {**_chain(hashes, form), "timeout": timeout}
        replies = await self._command("settle", payload, timeout, at=settling)
        if any(reply["failed"] or reply["turned_away"] for reply in replies):
            return await self.persist(hashes, timeout=timeout, form=form)
        return settled_of(replies, hashes)

    async def persist(
        self, hashes: Sequence[str], *, timeout: float, form: FormName | None = None
    ) -> Settled:
        """Have all that the device holds of `hashes` stored, and wait for it; what is stored then.

        Stored in memory: `StateStore.confirm` tells when it is durable.
        """
        payload = {**_chain(hashes, form), "timeout": timeout}
        replies = await self._step("persist", payload, timeout, at=settling)
        return settled_of(replies, hashes)

    async def where(
        self,
        hashes: Sequence[str],
        *,
        name: str,
        timeout: float,
        form: FormName | None = None,
        since: int = 0,
    ) -> Whereabouts:
        """Where the chain `hashes` is now; `name`: of a hold, see `hold`; since: leading pages that
        are not looked for, and count as there, with no state."""
        payload = {**_chain(hashes, form), "name": name, "since": since}
        replies = await self._step("where", payload, timeout)
        left = [reply["held_for"] for reply in replies if reply["held_for"] is not None]
        places = {p: in_place(p, replies, since=since) for p in ("device", "staged", "stored")}
        return Whereabouts(**places, held_for=min(left, default=None))

    async def hold(
        self, hashes: Sequence[str], *, name: str, seconds: float, timeout: float
    ) -> Held:
        """Keep what the device holds of `hashes` from eviction for `seconds`, under `name`."""
        payload = {"hashes": list(hashes), "name": name, "seconds": seconds}
        replies = await self._step("hold", payload, timeout)
        return Held(min(reply["pages"] for reply in replies), replies[0]["reason"])

    async def let_go(self, name: str, *, timeout: float) -> bool:
        """End a hold; whether there was one."""
        replies = await self._step("let_go", {"name": name}, timeout)
        return all(reply["was_held"] for reply in replies)

    async def drop(self, hashes: Sequence[str], *, timeout: float) -> int:
        """Free the device of the end of the chain `hashes` that nobody else uses; pages freed.

        What is not stored yet, runs or is held stays.
        """
        replies = await self._step("drop", {"hashes": list(hashes)}, timeout)
        return min(int(reply["pages"]) for reply in replies)

    async def progress(self, session_id: str, *, timeout: float) -> SessionWork:
        """Answered at any time, also while a prefetch or a prompt takes long. Raises
        EngineUnreachable; StoreUnavailable."""
        return work_of(await self._watch("progress", {"session": session_id}, timeout))

    async def counts(self, *, timeout: float) -> EngineCounts:
        """Since its process started, and what waits now. Answered at any time. Raises
        EngineUnreachable, also for an engine of another version; StoreUnavailable."""
        replies = await self._watch("status", {}, timeout)
        try:
            return counts_of(replies)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineUnreachable(
                f"engine {self.record.engine_id} does not tell its counts as this version has "
                f"them: {error!r}. Run one version of all parts."
            ) from error

    async def _watch(
        self, name: str, payload: Mapping[str, Any], timeout: float
    ) -> list[dict[str, Any]]:
        """A command that is answered while others run."""
        record = self.record
        try:
            return await self._store.send_command(
                watched(record.boot_id), record.ranks, name, payload, timeout=timeout
            )
        except EngineFailed as error:
            raise EngineUnreachable(
                f"engine {record.engine_id} could not do {name}: {error}"
            ) from error
        except EngineSilent as error:
            raise EngineUnreachable(
                f"engine {record.engine_id} does not answer {name}: {error}"
            ) from error

    async def _step(
        self, name: str, payload: Mapping[str, Any], timeout: float, *, at: Address = str
    ) -> list[dict[str, Any]]:
        """A command that all ranks run in the same step of the scheduler."""
        return await self._command(name, {**payload, "step": secrets.token_hex(8)}, timeout, at=at)

    async def drain(self, *, draining: bool, timeout: float = 10.0) -> None:
        """Tell runtimes through its record to give it no more turns, or to give it turns again."""
        await self._watch("drain", {"draining": draining}, timeout)

    async def look(self) -> None:
        """See whether it answers, and its load. Raises EngineUnreachable when nobody listens."""
        if time.monotonic() - self._looked_at > _FRESH:
            self.load = await self.client.load(timeout=_LOOK)
            self._looked_at = self._heard_at = time.monotonic()

    async def knock(self) -> None:
        """`look` without the load, for who has no choice of engines."""
        if time.monotonic() - self._heard_at > _FRESH:
            await self.client.knock(timeout=_LOOK)
            self._heard_at = time.monotonic()

    async def while_alive(self, wanted: Coroutine[Any, Any, _T]) -> _T:
        """What `wanted`, which waits for this engine, gives; EngineUnreachable once it is gone.

        It is gone when nobody listens, or when it neither answers nor beats; when it does only
        one of the two, or beats cannot be seen because the store is gone too, after `HANGS` s.
        """
        return await unless_gone(wanted, self._ends)

    async def _ends(self) -> str:
        return f"engine {self.record.engine_id} ended or hangs: {await self.until_gone()}."

    async def until_gone(self) -> str:
        """Returns once it is gone, with what is known of it then."""
        well_at = time.monotonic()
        while True:
            signs = await self._signs()
            if signs is _Signs.ALL:
                well_at = time.monotonic()
            elif signs is _Signs.NONE or time.monotonic() - well_at > HANGS:
                return str(signs.value)
            await asyncio.sleep(WATCH)

    async def _signs(self) -> _Signs:
        try:
            answers = await self.client.load(timeout=_LOOK) is not None
        except EngineUnreachable:
            return _Signs.NONE
        try:
            records = await self._store.engines()
        except StoreUnavailable:
            return _Signs.ALL if answers else _Signs.UNKNOWN
        beats = any(record["boot_id"] == self.record.boot_id for record in records)
        if answers and beats:
            return _Signs.ALL
        if beats:
            return _Signs.SILENT
        return _Signs.BEATLESS if answers else _Signs.NONE

    async def status(self, *, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Counters of each rank's linker."""
        return await self._command("status", {}, timeout)

    async def _command(
        self, name: str, payload: Mapping[str, Any], timeout: float, *, at: Address = str
    ) -> list[dict[str, Any]]:
        record = self.record
        try:
            return await self.while_alive(
                self._store.send_command(
                    at(record.boot_id), record.ranks, name, dict(payload), timeout=timeout
                )
            )
        except EngineFailed as error:
            raise EngineUnreachable(
                f"engine {record.engine_id} could not do {name}: {error}"
            ) from error
        except EngineSilent as error:
            raise EngineUnreachable(
                f"engine {record.engine_id} did not answer {name} within {timeout:g} s: {error}"
            ) from error


class EnginePool:
    """Finds live engines. Holds one client per engine start (boot)."""

    def __init__(self, store: StateStore, *, router: str | None = None) -> None:
        """router: URL of a router in front of all engines, which decides which one generates."""
        self.router = None if router is None else EngineClient(router, routed=True)
        self._store = store
        self._engines: dict[str, Engine] = {}
        self._aside: dict[str, float] = {}
        self._unreadable: dict[str, str] = {}

    async def pick(
        self, fingerprint_id: str | None = None, *, master_key: str | None = None
    ) -> Engine:
        """The first by id of the `usable` engines."""
        return (await self.usable(fingerprint_id, master_key=master_key))[0]

    async def usable(
        self,
        fingerprint_id: str | None = None,
        *,
        without: Collection[str] = (),
        master_key: str | None = None,
        records: Sequence[EngineRecord] | None = None,
    ) -> list[Engine]:
        """Engines that can take a turn, by id, each just looked at; without its load if there is
        one only.

        fingerprint_id: of the state format that they must have; any, if None
        without: boot ids of engines that are not wanted
        master_key: id of the one that they must have, to store the session
        records: as just read; None to read them

        One that failed lately is among them only if there is no other. Raises NoEngine, saying of
        each registered one why not, and of one of another format in which fields.
        """
        refusals: list[str] = []
        fitting: list[Engine] = []
        others: list[EngineRecord] = []
        alive = await self.records() if records is None else records
        for record in sorted(alive, key=lambda record: record.engine_id):
            if record.boot_id in without:
                refusals.append(f"{record.engine_id} (failed in this turn)")
            elif fingerprint_id not in (None, record.fingerprint.id):
                others.append(record)
            elif record.draining:
                refusals.append(f"{record.engine_id} (draining)")
            elif master_key is not None and master_key not in record.master_keys:
                refusals.append(
                    f"{record.engine_id} (lacks master key {master_key} of the session's tenant; "
                    "start it with --master-key)"
                )
            else:
                fitting.append(self._engine(record))
        aside = [engine for engine in fitting if self._is_aside(engine)]
        for engines in ([engine for engine in fitting if engine not in aside], aside):
            is_only = len(engines) == 1
            answers = await asyncio.gather(
                *(self._answers(engine, with_load=not is_only) for engine in engines)
            )
            if answering := [engine for engine, yes in zip(engines, answers, strict=True) if yes]:
                return answering
            refusals += [f"{engine.record.engine_id} (does not answer)" for engine in engines]
        if fingerprint_id is not None and others:
            refusals += await of_another_format(self._store, fingerprint_id, others)
        refusals += [f"{name} ({why})" for name, why in sorted(self._unreadable.items())]
        raise NoEngine(
            f"no engine with fingerprint {fingerprint_id or 'any'} can take a turn; registered: "
            f"{', '.join(refusals) or 'none'}. The session is kept. Start an engine with the same "
            "model and settings: torpor engine up."
        )

    def put_aside(self, engine: Engine, why: str) -> None:
        """Prefer others for a while: it has failed."""
        logger.warning(
            "engine %s is put aside for %g s: %s", engine.record.engine_id, PUT_ASIDE, why
        )
        self._aside[engine.record.boot_id] = time.monotonic() + PUT_ASIDE

    async def named(self, engine_id: str, *, boot_id: str | None = None) -> Engine:
        """The engine of that id; boot_id: only if it is that start of it. Raises NoEngine."""
        records = await self.records()
        for record in records:
            if record.engine_id == engine_id and boot_id in (None, record.boot_id):
                return self._engine(record)
        found = ", ".join(sorted(record.engine_id for record in records)) or "none"
        raise NoEngine(f"no live engine {engine_id}; registered: {found}.")

    async def with_boot(self, boot_id: str) -> Engine | None:
        """The engine of that start, if it still lives."""
        for record in await self.records():
            if record.boot_id == boot_id:
                return self._engine(record)
        return None

    async def while_all_alive(
        self, wanted: Coroutine[Any, Any, _T], fingerprint_id: str, session_id: str
    ) -> _T:
        """What `wanted` gives, which waits for an answer on a session through the router: for one
        of the engines with that state format, and nobody knows for which.

        EngineUnreachable once one of them is gone (see `Engine.while_alive`) and no other is seen
        at work on the session.
        """
        return await unless_gone(
            wanted, lambda: self._until_one_is_gone(fingerprint_id, session_id)
        )

    async def _until_one_is_gone(self, fingerprint_id: str, session_id: str) -> str:
        watched: dict[asyncio.Task[str], Engine] = {}
        while not watched:  # without the store nobody knows who they are
            with contextlib.suppress(StoreUnavailable):
                for record in await self.records():
                    if record.fingerprint.id == fingerprint_id:
                        engine = self._engine(record)
                        watched[asyncio.create_task(engine.until_gone())] = engine
            if not watched:
                await asyncio.sleep(WATCH)
        try:
            while watched:
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    gone = watched.pop(task).record.engine_id
                    if not await _one_works_on(session_id, watched.values()):
                        return (
                            f"engine {gone} ended or hangs: {task.result()}; the router may have "
                            "chosen it, and no other engine is seen at work on the session."
                        )
            return "all engines behind the router ended or hang."
        finally:
            for task in watched:
                task.cancel()

    async def records(self) -> list[EngineRecord]:
        """Records of all engines with a live heartbeat, but for those of another version of this
        code, which are logged once and not for it."""
        records, self._unreadable = readable(await self._store.engines(), self._unreadable)
        await self._forget_all_but({record.boot_id for record in records})
        return records

    async def engines(self) -> list[Engine]:
        """All engines with a live heartbeat."""
        return [self._engine(record) for record in await self.records()]

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.client.close()
        if self.router is not None:
            await self.router.close()

    def _engine(self, record: EngineRecord) -> Engine:
        known = self._engines.get(record.boot_id)
        if known is None:
            known = self._engines[record.boot_id] = Engine(record, self._store)
        known.record = record  # an engine may begin to drain
        return known

    async def _forget_all_but(self, live: Collection[str]) -> None:
        """Close the clients of engines that ended a while ago. Whoever still holds one finds it
        unreachable."""
        now = time.monotonic()
        for boot_id, engine in list(self._engines.items()):
            if boot_id in live:
                engine.seen_at = now
            elif not engine.turns and now - engine.seen_at > _FORGET:
                if self._engines.pop(boot_id, None) is None:
                    continue  # who looked at the same time has closed it
                self._aside.pop(boot_id, None)
                await engine.client.close()

    def _is_aside(self, engine: Engine) -> bool:
        return self._aside.get(engine.record.boot_id, 0.0) > time.monotonic()

    async def _answers(self, engine: Engine, *, with_load: bool) -> bool:
        try:
            await (engine.look() if with_load else engine.knock())
        except EngineUnreachable as error:
            self.put_aside(engine, str(error))
            return False
        return True


def _chain(hashes: Sequence[str], form: FormName | None) -> dict[str, Any]:
    return {"hashes": list(hashes), "form": None if form is None else astuple(form)}


async def _one_works_on(session_id: str, engines: Collection[Engine]) -> bool:
    for engine in engines:
        with contextlib.suppress(EngineUnreachable, StoreUnavailable):
            work = await engine.progress(session_id, timeout=_LOOK)
            if any(done < total for done, total in (work.load, work.prefill)):
                return True
    return False
