"""Random lives of sessions, compared after every step with a model of what must be reachable."""

from __future__ import annotations

import asyncio
import secrets
from typing import ClassVar

import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from writer import PAGE, RANKS, Writer

from state_store.objects import ObjectClient
from state_store.store import StateStore

# Few different tokens, so that branches often commit equal turns.
TURNS = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=9).map(tuple)


class Sessions(RuleBasedStateMachine):
    """`heads`: session id -> its history, a tuple of turns. A history names its snapshot."""

    url: ClassVar[str]
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        prefix = f"t{secrets.token_hex(4)}"
        self.store = self.run(StateStore.connect(self.url, prefix=prefix))
        self.client = ObjectClient(self.url, timeout=5.0)
        self.writer = Writer(self.store, self.client, prefix)
        self.heads: dict[str, tuple] = {}
        self.roots: dict[str, str] = {}

    def run(self, awaitable):
        return self.loop.run(awaitable)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.client.close()
        self.loop.close()
        with redis.Redis.from_url(self.url) as raw:  # checks walk all keys, of other lives too
            raw.flushall()

    @rule(target=sessions)
    def create(self):
        session_id = self.run(self.writer.session()).id
        self.heads[session_id] = ()
        self.roots[session_id] = session_id
        return session_id

    @rule(session_id=sessions, turn=TURNS)
    def commit(self, session_id, turn):
        self.run(self.writer.turn(session_id, turn))
        self.heads[session_id] += (turn,)

    @rule(target=sessions, session_id=sessions, back=st.integers(0, 3))
    def fork(self, session_id, back):
        history = self.heads[session_id]
        turns = max(len(history) - back, 0)
        snapshot_id = None
        if turns:
            head = self.run(self.store.session(session_id)).head
            snapshot_id = self.run(self.store.ancestors(head))[turns - 1].id
        else:
            turns = len(history)  # None forks the head
        branch = self.run(self.store.fork(session_id, snapshot_id=snapshot_id)).id
        self.heads[branch] = history[:turns]
        self.roots[branch] = self.roots[session_id]
        return branch

    @rule(session_id=consumes(sessions))
    def delete(self, session_id):
        self.run(self.store.delete_session(session_id))
        del self.heads[session_id]

    @precondition(lambda self: self.heads)
    @rule()
    def recover(self):
        assert self.run(self.store.recover(older_than=0)).snapshots == 0

    @invariant()
    def holds_exactly_what_is_reached(self):
        snapshots, objects = set(), set()
        for session_id, history in self.heads.items():
            tokens: tuple[int, ...] = ()
            for count, turn in enumerate(history, start=1):
                snapshots.add((self.roots[session_id], history[:count]))
                new = range(len(tokens) // PAGE, len(tokens + turn) // PAGE)
                tokens += turn
                # Equal tokens make equal pages, in whatever turns and lineages they came.
                objects |= {("kv", tokens[: (page + 1) * PAGE]) for page in new}
                if new:
                    objects.add(("state", tokens[: new.stop * PAGE]))
            assert self.run(self.writer.history(session_id)) == list(tokens)
        report = self.run(self.store.check_integrity())
        assert report.problems == []
        assert (report.sessions, report.snapshots) == (len(self.heads), len(snapshots))
        assert report.objects == len(objects) * RANKS


def test_random_sessions_hold_exactly_what_they_reach(server):
    Sessions.url = server.url
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            deadline=None,
            database=None,
            derandomize=True,
        ),
    )
