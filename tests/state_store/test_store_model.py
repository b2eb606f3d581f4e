"""Random lives of sessions, with deaths in the midst of operations and restarts of the server.

Whatever happened, a head is old or new, and once recovered the store is in order and holds exactly
the bytes that live sessions reach: in Redis, and nothing in the archive when all is brought back.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from writer import FINGERPRINT, PAGE, PAYLOAD, TENANT, Trips, Writer, find_sessions

from state_store.archive import open_archive
from state_store.archive.collect import collect_condemned, collect_orphans
from state_store.archive.policy import ArchivePolicy
from state_store.codec import HEADER_BYTES
from state_store.embedded import EmbeddedServer
from state_store.errors import ArchivedObjectsLost, StoreError
from state_store.identity import page_hashes
from state_store.layout import KINDS, ObjectRef
from state_store.objects import ObjectClient
from state_store.store import StateStore

WHICH = st.integers(0, 5)
BACK = st.sampled_from([1, 2, 0, 3])
# Few different tokens, so that branches often commit equal turns.
TURNS = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9).map(tuple)
DEATHS = st.none() | st.tuples(st.sampled_from(["before", "amid", "after"]), st.integers(1, 10))
MOVES = ("confirm", "archive", "archive", "bring back", "sweep")
EVENTS = ("recover", "check", "repair", "time passes", "restart")
VALUES = st.sampled_from(["x", "y"])

Turn = tuple[str, tuple[int, ...]]
"""Snapshot id, and the tokens that it added."""


class Store(RuleBasedStateMachine):
    """`heads`: session id -> its turns. `labels`: session id -> the value of its one label.

    Operations are those of a `victim`, which may die of them and is then another process;
    `writer` is everybody else, and looks at what came of it.

    Rules have no preconditions: whether a death comes before or after what it interrupts may
    differ from one run to the next, and which rules there are must not.
    """

    server: ClassVar[EmbeddedServer]
    folder: ClassVar[Path]
    deaths: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.prefix = f"t{secrets.token_hex(4)}"
        self.place = self.folder / self.prefix
        self.client = ObjectClient(self.server.url, timeout=5.0)
        self.raw = redis.Redis.from_url(self.server.url)
        self.writer = Writer(self.run(self.opened()), self.client, self.prefix)
        self.victim = self.run(self.opened())
        self.trips = Trips(self.victim)
        self.heads: dict[str, tuple[Turn, ...]] = {}
        self.labels: dict[str, str] = {}

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self.loop.run(wait())

    async def opened(self) -> StateStore:
        return await StateStore.connect(
            self.server.url, prefix=self.prefix, archive=f"file://{self.place}"
        )

    def attempt(self, operation: Callable[[StateStore], Awaitable[Any]], death: Any) -> Any:
        """The result of the operation; None if the victim died of it."""
        self.trips.count, self.trips.crash_at = 0, death
        try:
            return self.run(operation(self.victim))
        except ArchivedObjectsLost:
            raise
        except StoreError:
            assert death is not None, "it failed though nothing went wrong"
            self.trips.crash_at = None
            self.run(self.victim.close())
            self.victim = self.run(self.opened())
            self.trips = Trips(self.victim)
            type(self).deaths += 1
            return None
        finally:
            self.trips.crash_at = None

    def pick(self, which: int) -> str:
        return list(self.heads)[which % len(self.heads)]

    # ---- what sessions do ----------------------------------------------------

    @initialize(turns=st.lists(TURNS, min_size=1, max_size=3))
    def begin(self, turns: list[tuple[int, ...]]) -> None:
        self.create(None)
        for tokens in turns:
            self.turn(0, tokens, None)

    @rule(death=DEATHS)
    def create(self, death: Any) -> None:
        self.attempt(
            lambda store: store.create_session(tenant=TENANT, fingerprint=FINGERPRINT), death
        )
        self.adopt((), death)

    @rule(which=WHICH, tokens=TURNS, death=DEATHS)
    def turn(self, which: int, tokens: tuple[int, ...], death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        draft = self.run(self.writer.draft(session_id, tokens))
        self.writer.put(draft)
        lease = self.run(self.writer.lease(session_id))
        commit = self.attempt(
            lambda store: store.commit(draft, lease=lease, durability="memory"), death
        )
        head = self.head_of(session_id)
        if head != draft.parent:
            self.heads[session_id] += ((head, tokens),)
        assert death is not None or head == commit.snapshot.id
        self.run(self.writer.store.release(lease))

    @rule(which=WHICH, turns=st.lists(TURNS, min_size=2, max_size=3))
    def several_turns(self, which: int, turns: list[tuple[int, ...]]) -> None:
        if not self.heads:
            return
        for tokens in turns:
            self.turn(which, tokens, None)

    @rule(which=WHICH, back=BACK, death=DEATHS)
    def fork(self, which: int, back: int, death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        turns = self.heads[session_id]
        kept = turns[: max(len(turns) - back, 1)]
        snapshot_id = kept[-1][0] if kept else None
        self.attempt(lambda store: store.fork(session_id, snapshot_id=snapshot_id), death)
        self.adopt(kept, death)

    @rule(which=WHICH, tokens=st.integers(0, 20), death=DEATHS)
    def branch(self, which: int, tokens: int, death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        kept: tuple[Turn, ...] = ()
        for turn in self.heads[session_id]:
            if len(tokens_of((*kept, turn))) > tokens:
                break
            kept += (turn,)
        self.attempt(lambda store: store.branch_at(session_id, tokens=tokens), death)
        self.adopt(kept, death)

    @rule(which=WHICH, back=BACK, death=DEATHS)
    def rewind(self, which: int, back: int, death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        turns = self.heads[session_id]
        kept = turns[: max(len(turns) - back, 0)]
        target = kept[-1][0] if kept else None
        lease = self.run(self.writer.lease(session_id))
        self.attempt(lambda store: store.rewind(session_id, target, lease=lease), death)
        if self.head_of(session_id) == target:
            self.heads[session_id] = kept
        assert death is not None or self.heads[session_id] == kept
        self.run(self.writer.store.release(lease))

    @rule(which=WHICH, value=VALUES, of_head=st.booleans(), death=DEATHS)
    def label(self, which: int, value: str, of_head: bool, death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        turns = self.heads[session_id]
        any_id = turns[-1][0] if of_head and turns else session_id
        self.attempt(lambda store: store.set_labels(any_id, {"name": value}), death)
        if any_id == session_id:
            labels = self.run(self.writer.store.session(session_id)).labels
            assert labels.get("name") in (value, self.labels.get(session_id) if death else value)
            if labels:
                self.labels[session_id] = labels["name"]

    @rule(which=WHICH, death=DEATHS)
    def delete(self, which: int, death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        self.attempt(lambda store: store.delete_session(session_id), death)
        there = {one.id for one in self.run(self.writer.store.sessions(TENANT))}
        assert death is not None or session_id not in there
        if session_id not in there:
            del self.heads[session_id]
            self.labels.pop(session_id, None)

    @rule(which=WHICH, how=st.sampled_from(MOVES), death=DEATHS)
    def move(self, which: int, how: str, death: Any) -> None:
        if not self.heads:
            return
        session_id = self.pick(which)
        if how == "confirm":
            self.attempt(lambda store: store.confirm("fsync"), death)
        elif how == "archive":
            self.attempt(lambda store: store.archive_session(session_id, spare=0), death)
        elif how == "sweep":
            policy = ArchivePolicy(idle=0, spare=0)
            self.attempt(lambda store: store.sweep(policy), death)
        elif self.attempt(lambda store: store.bring_back(session_id), death) is not None:
            tokens = tokens_of(self.heads[session_id])
            expected = "stored" if len(tokens) >= PAGE else "tokens" if tokens else "empty"
            assert self.run(self.writer.store.residency(session_id)) == expected
            # All of them together are where each of them is.
            sessions = self.run(self.writer.store.sessions(TENANT))
            heads = [one.head for one in sessions if one.head is not None]
            assert self.run(self.writer.store.residencies(heads)) == {
                one.head: self.run(self.writer.store.residency(one.id))
                for one in sessions
                if one.head is not None
            }

    # ---- what happens to the store ----------------------------------------------

    @rule(what=st.sampled_from(EVENTS), death=DEATHS)
    def meanwhile(self, what: str, death: Any) -> None:
        if what == "recover":
            self.attempt(lambda store: store.recover(older_than=0), death)
        elif what in ("check", "repair"):  # what a death left half done is no problem
            repair = what == "repair"
            report = self.attempt(lambda store: store.check_integrity(repair=repair), death)
            assert report is None or (report.problems, report.repaired) == ([], [])
        elif what == "time passes":  # over everything that nobody holds
            if gone := [key for key, ttl in self.object_keys().items() if ttl != -1]:
                self.raw.delete(*gone)
        else:
            self.server.kill()
            self.server.start()

    # ---- what must hold -----------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            for store in (self.victim, self.writer.store):
                self.run(store.close())
            self.client.close()
            self.raw.flushall()
            self.raw.close()
            self.loop.close()
            shutil.rmtree(self.place, ignore_errors=True)

    def check(self) -> None:
        store = self.writer.store
        for session_id, turns in self.heads.items():
            assert self.run(self.writer.history(session_id)) == list(tokens_of(turns))
            self.run(store.bring_back(session_id))
        self.run(store.recover(older_than=0))
        self.check_bytes(self.run(store.check_integrity()))
        self.check_labels()
        for left in ("journals", "aborted", "dead"):
            assert self.raw.keys(f"{self.prefix}:{{*}}:{left}") == []
        archive = open_archive(f"file://{self.place}")
        for collect in (collect_condemned, collect_orphans):
            self.run(collect(store._control, self.prefix, archive, older_than=0))
        assert [path for path in self.place.rglob("*") if path.is_file()] == []

    def check_bytes(self, report: Any) -> None:
        held, snapshots = set(), set()
        for turns in self.heads.values():
            snapshots |= {snapshot_id for snapshot_id, _ in turns}
            held |= self.objects_of(turns)
        assert report.problems == []
        assert (report.sessions, report.snapshots) == (len(self.heads), len(snapshots))
        assert {key for key, ttl in self.object_keys().items() if ttl == -1} == held
        expected = sum(HEADER_BYTES + PAYLOAD[kind_of(key, self.prefix)] for key in held)
        assert (report.objects, report.object_bytes) == (len(held), expected)

    def check_labels(self) -> None:
        store = self.writer.store
        snapshots = {snapshot_id for turns in self.heads.values() for snapshot_id, _ in turns}
        written = self.run(store.labels(sorted(snapshots)))
        for value in ("x", "y"):
            sessions = self.run(find_sessions(store, TENANT, {"name": value}))
            assert {one.id for one in sessions} == {
                one for one, label in self.labels.items() if label == value
            }
            found = self.run(store.find_snapshots(TENANT, {"name": value}))
            assert {one.id for one in found} == {
                one for one, labels in written.items() if labels.get("name") == value
            }
            listed = self.raw.zrange(f"{self.prefix}:{{tenant:{TENANT}}}:label:name={value}", 0, -1)
            assert {raw.decode() for raw in listed} == {one.id for one in (*sessions, *found)}

    def adopt(self, turns: tuple[Turn, ...], death: Any) -> None:
        """The session that an operation made, if it did before the victim died."""
        sessions = self.run(self.writer.store.sessions(TENANT))
        new = [one for one in sessions if one.id not in self.heads]
        assert len(new) == 1 or (death is not None and not new)
        for session in new:
            assert session.head == (turns[-1][0] if turns else None)
            self.heads[session.id] = turns

    def head_of(self, session_id: str) -> str | None:
        return self.run(self.writer.store.session(session_id)).head

    def objects_of(self, turns: tuple[Turn, ...]) -> set[bytes]:
        """Keys of all pages of a history, and of the states at the ends of its turns."""
        salt = self.run(self.writer.store.tenant(TENANT)).salt
        hashes = page_hashes(tokens_of(turns), PAGE, salt=salt, bigram=False)
        refs = {ObjectRef("kv", page) for page in hashes}
        for count in range(1, len(turns) + 1):
            if pages := len(tokens_of(turns[:count])) // PAGE:
                refs.add(ObjectRef("state", hashes[pages - 1]))
        return {names.key(ref) for names in self.writer.names() for ref in refs}

    def object_keys(self) -> dict[bytes, int]:
        """Every page and state in Redis -> seconds it has to live, -1 for ever."""
        keys = [key for kind in KINDS for key in self.raw.scan_iter(f"{self.prefix}:{kind}:*")]
        pipeline = self.raw.pipeline(transaction=False)
        for key in keys:
            pipeline.ttl(key)
        return dict(zip(keys, pipeline.execute(), strict=True))


def tokens_of(turns: tuple[Turn, ...]) -> tuple[int, ...]:
    return sum((tokens for _, tokens in turns), ())


def kind_of(key: bytes, prefix: str) -> Any:
    return key.decode().removeprefix(f"{prefix}:").partition(":")[0]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lives", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_lives_deaths_and_restarts_lose_and_leak_nothing(tmp_path, monkeypatch, lives):
    monkeypatch.setattr(Store, "deaths", 0)
    for module in ("archive.archivist", "archiving"):
        monkeypatch.setattr(f"state_store.{module}.WORKERS", 1)
    with EmbeddedServer(tmp_path / "server", fsync="always") as server:
        Store.server, Store.folder = server, tmp_path / "archive"
        run_state_machine_as_test(
            Store,
            settings=settings(
                max_examples=lives,
                stateful_step_count=15,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert Store.deaths > lives
