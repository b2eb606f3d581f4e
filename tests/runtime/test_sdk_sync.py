"""The door of the runtime for code that does not await."""

import asyncio
import inspect
import threading
import time

import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.sdk.ledger import SessionLedger
from agent_runtime.sdk.loops import LoopThread
from agent_runtime.sdk.sync import LedgerSync, TenantsSync, TorporSync
from agent_runtime.sdk.tenants import TenantsClient
from agent_runtime.wire.turns import TurnResult
from tools.effects import Effect, Entry, Scope, State
from tools.results import TextPart, ToolResult


@pytest.fixture
def sync(stage):
    with TorporSync(stage.runtime.url) as torpor:
        yield torpor


def public(kind):
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("blocking", "awaiting"),
    [(TorporSync, Torpor), (TenantsSync, TenantsClient), (LedgerSync, SessionLedger)],
)
def test_it_has_every_method_of_the_client_that_awaits(blocking, awaiting):
    assert public(blocking) == public(awaiting)
    for name in public(awaiting):
        ours, theirs = getattr(blocking, name), getattr(awaiting, name)
        assert inspect.signature(ours) == inspect.signature(theirs)


def test_its_ledger_is_written_and_read(sync):
    session = sync.create()
    entry = Entry(
        branch=session.id,
        point="beginning",
        position=0,
        tool="send",
        arguments_hash="0" * 64,
        effect=Effect.EFFECTFUL,
        scope=Scope.WORLD,
        at=time.time(),
    )
    assert sync.ledger.find(entry) is None
    assert sync.ledger.begin(entry) is None
    done = entry.model_copy(
        update={"state": State.DONE, "result": ToolResult(parts=(TextPart(content="sent"),))}
    )
    sync.ledger.end(done)
    assert sync.ledger.of(session.id) == [done]
    assert sync.ledger.inherited(entry) == []
    sync.delete(session.id)


def test_a_session_is_talked_to_without_awaiting(sync, registry):
    session = sync.create(system=SYSTEM, tools=registry.specs())
    *pieces, last = sync.stream(session.id, "Thanks.")
    assert isinstance(last, TurnResult)
    assert pieces
    assert sync.turn(session.id, "Thanks.").parent == last.snapshot
    sync.delete(session.id)
    with pytest.raises(ApiError) as gone:
        sync.get(session.id)
    assert gone.value.code == "not_found"


async def test_it_works_where_a_loop_runs_already(stage):
    with TorporSync(stage.runtime.url) as torpor:
        assert torpor.health()["status"] == "ok"


def test_a_turn_that_nobody_reads_to_its_end_gives_the_session_back(sync):
    session = sync.create(system=SYSTEM)
    for _ in sync.stream(session.id, "Thanks.", max_tokens=1024):
        break
    refused = "lease_held"
    for _ in range(100):  # 10 s, well before the lease would expire by itself
        with pytest.raises(ApiError) as moved:
            sync.turn(session.id, "Thanks.", expected_head="snp-another")
        refused = moved.value.code
        if refused != "lease_held":
            break
        time.sleep(0.1)
    assert refused == "head_moved"
    sync.delete(session.id)


def test_no_thread_is_left():
    before = threading.active_count()
    with LoopThread() as loop:
        assert threading.active_count() == before + 1
        assert loop.run(asyncio.sleep(0, "done")) == "done"
    assert threading.active_count() == before
