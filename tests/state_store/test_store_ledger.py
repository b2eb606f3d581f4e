"""The ledger that is kept with sessions: a fork inherits what its chain of snapshots leads to."""

import asyncio
import time

import pytest
from writer import TENANT

from agent_runtime.sessions.ledger import IMPORTED, StoreLedger
from agent_runtime.sessions.ledger_records import (
    name_of,
    name_of_entry,
    name_of_imported,
    packed,
)
from state_store.errors import (
    CorruptObject,
    DurabilityNotReached,
    ForeignTenant,
    NotFound,
    QuotaExceeded,
)
from state_store.quotas import Quota
from tools.calls import ToolCall
from tools.define import define
from tools.effects import Effect, Entry, Scope, State, arguments_hash
from tools.registry import Registry
from tools.results import ToolResult
from tools.running import Executor, Place


def entry(branch: str, point: str | None, what: str = "sheep", **changes) -> Entry:
    assert point is not None
    return Entry(
        branch=branch,
        point=point,
        position=0,
        tool="count",
        arguments_hash=arguments_hash({"what": what}),
        effect=Effect.EFFECTFUL,
        scope=Scope.WORLD,
        at=time.time(),
        **changes,
    )


@pytest.fixture
def ledger(store):
    return StoreLedger(store, tenant="default", durability="memory")


async def test_one_of_many_begins_a_call_and_the_others_know_of_it(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    seen = await asyncio.gather(*(ledger.begin(entry(session.id, session.head)) for _ in range(20)))
    assert seen.count(None) == 1
    (standing,) = {one for one in seen if one is not None}
    assert await ledger.find(entry(session.id, session.head)) == standing


async def test_what_is_done_stays_done_and_many_calls_end_at_once(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    done = [
        entry(
            session.id, session.head, state=State.DONE, result=ToolResult.of(str(number))
        ).model_copy(update={"position": number})
        for number in range(10)
    ]
    await asyncio.gather(*map(ledger.end, done))
    for one in done:
        await ledger.end(one.model_copy(update={"state": State.UNKNOWN, "result": None}))
        assert await ledger.find(one) == one


async def test_a_call_without_room_in_the_quota_is_not_begun_and_a_begun_one_ends(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    begun = entry(session.id, session.head)
    await ledger.begin(begun)
    await writer.store.set_quota(TENANT, Quota(bytes=1))
    with pytest.raises(QuotaExceeded):
        await ledger.begin(entry(session.id, session.head, "goats"))
    ended = begun.model_copy(update={"state": State.DONE, "result": ToolResult.of("7" * 1000)})
    await ledger.end(ended)
    assert await ledger.find(begun) == ended


async def test_a_fork_inherits_what_its_history_leads_to(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    first = session.head
    await ledger.begin(entry(session.id, first))  # called after the first turn
    await writer.turn(session.id, [5, 6, 7, 8])
    second = (await writer.store.session(session.id)).head
    after_call = await writer.store.fork(session.id)
    await writer.turn(after_call.id, [9, 9])
    tip = (await writer.store.session(after_call.id)).head
    # What the parent does once the fork has left it is not in the fork's history.
    await writer.turn(session.id, [7, 7])
    third = (await writer.store.session(session.id)).head
    await ledger.begin(entry(session.id, third, "goats"))
    assert await _inherited(ledger, after_call.id, tip) == [(session.id, first)]
    assert await _inherited(ledger, after_call.id, tip, "goats") == []
    # Nor is anything in a fork from before it, nor is its own.
    before = await writer.session([1, 2])
    assert await _inherited(ledger, before.id, before.head) == []
    assert await _inherited(ledger, session.id, third) == []
    # A fork of the fork inherits through both.
    await ledger.begin(entry(after_call.id, tip, "cows"))
    again = await writer.store.fork(after_call.id)
    await writer.turn(again.id, [1])
    last = (await writer.store.session(again.id)).head
    assert await _inherited(ledger, again.id, last) == [(session.id, first)]
    assert await _inherited(ledger, again.id, last, "cows") == [(after_call.id, tip)]
    assert second != first


async def test_what_a_fork_itself_did_where_it_began_is_inherited_from_it(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    branch = await writer.store.fork(session.id)
    await ledger.begin(entry(branch.id, session.head))
    await writer.turn(branch.id, [5])
    again = await writer.store.fork(branch.id)
    await writer.turn(again.id, [6])
    last = (await writer.store.session(again.id)).head
    assert await _inherited(ledger, again.id, last) == [(branch.id, session.head)]
    # The session that it left knows nothing of that.
    await writer.turn(session.id, [7])
    head = (await writer.store.session(session.id)).head
    assert await _inherited(ledger, session.id, head) == []


async def test_the_very_same_call_is_known_in_a_fork_that_began_at_its_point(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    point = session.head
    await ledger.begin(entry(session.id, point))
    await writer.turn(session.id, [5])
    for head in (point, (await writer.store.session(session.id)).head):
        branch = await writer.store.fork(session.id, snapshot_id=head)
        assert await _inherited(ledger, branch.id, point) == [(session.id, point)]
    empty = await writer.store.branch_at(session.id, tokens=0)
    assert await _inherited(ledger, empty.id, point) == []


async def test_branches_that_say_the_same_do_not_take_their_effects_from_each_other(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    twins = [await writer.store.fork(session.id) for _ in range(2)]
    for twin in twins:
        await writer.turn(twin.id, [5, 6, 7, 8])
    one, other = [await writer.store.session(twin.id) for twin in twins]
    assert one.head == other.head
    await ledger.begin(entry(one.id, one.head))
    assert await _inherited(ledger, other.id, other.head) == []


async def test_the_ledger_of_others_is_closed(store, writer):
    session = await writer.session([1, 2, 3, 4])
    other = StoreLedger(store, tenant="ann", durability="memory")
    for method in (other.find, other.begin, other.end, other.inherited):
        with pytest.raises(ForeignTenant):
            await method(entry(session.id, session.head))


async def test_a_call_whose_beginning_is_not_durable_is_not_made(store, writer, monkeypatch):
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 1.5)
    session = await writer.session([1, 2, 3, 4])
    called = []

    def count(what: str) -> str:
        """Counts."""
        called.append(what)
        return "done"

    calls = [ToolCall(name="count", arguments={"what": "sheep"})]
    registry = Registry([define(count)])
    place = Place(session.id, session.head)
    # There is no replica that could confirm.
    strict = StoreLedger(store, durability="replicated:1")
    with pytest.raises(DurabilityNotReached):
        await strict.begin(entry(session.id, session.head, "goats"))
    assert await strict.find(entry(session.id, session.head, "goats")) is None
    (result,) = await Executor(registry, ledger=strict).run(calls, place)
    assert result.text.startswith("count was not called: what it does cannot be recorded now.")
    assert called == []
    fsynced = StoreLedger(store, durability="fsync")
    (result,) = await Executor(registry, ledger=fsynced).run(calls, Place(session.id, "other"))
    assert (result.text, called) == ("done", ["sheep"])


async def test_a_call_that_is_made_again_and_again_does_not_write_the_results_before_it_again(
    ledger, writer, store
):
    session = await writer.session([1, 2, 3, 4])
    redis = store._control.redis
    result = ToolResult.of("still running. " * 2000)

    async def sent_by(number):
        before = (await redis.info("stats"))["total_net_input_bytes"]
        called = entry(session.id, f"point {number}")
        assert await ledger.begin(called) is None
        done = called.model_copy(update={"state": State.DONE, "result": result})
        await ledger.end(done)
        after = (await redis.info("stats"))["total_net_input_bytes"]
        assert await ledger.find(called) == done
        return after - before

    sizes = [await sent_by(number) for number in range(20)]
    assert sizes[0] > len(result.text)
    assert sizes[-1] < sizes[0] + len(result.text)
    assert [one.result for one in await ledger.of(session.id)] == [result] * 20


async def test_a_call_writes_as_much_however_often_the_like_of_it_was_made(ledger, writer, store):
    session = await writer.session([1, 2, 3, 4])
    redis = store._control.redis

    async def sent_by(number):
        before = (await redis.info("stats"))["total_net_input_bytes"]
        called = entry(session.id, f"point {number:04}")
        assert await ledger.begin(called) is None
        await ledger.end(called.model_copy(update={"state": State.DONE}))
        return (await redis.info("stats"))["total_net_input_bytes"] - before

    sizes = [await sent_by(number) for number in range(200)]
    assert max(sizes) < 16384
    assert max(sizes[100:]) <= 1.1 * max(sizes[:100])
    assert [one.state for one in await ledger.of(session.id)] == [State.DONE] * 200


async def test_a_fork_knows_of_all_calls_that_were_begun_at_once(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    begun = [
        entry(session.id, session.head).model_copy(update={"position": number})
        for number in range(50)
    ]
    await asyncio.gather(*map(ledger.begin, [*begun, *begun]))
    fork = await writer.store.fork(session.id)
    asked = entry(fork.id, session.head)
    assert sorted(one.position for one in await ledger.inherited(asked)) == [0]
    await writer.turn(session.id, [5])
    later = await writer.store.fork(session.id)
    asked = entry(later.id, later.head)
    assert sorted(one.position for one in await ledger.inherited(asked)) == [*range(50)]


async def test_many_imported_calls_that_do_the_same_are_looked_through_once(ledger, writer, store):
    """However many there are is for who made the file to say."""
    session = await writer.session([1, 2, 3, 4])
    one = entry(session.id, session.head)
    many = [
        one.model_copy(update={"branch": IMPORTED, "position": number}) for number in range(30_000)
    ]
    name = name_of_imported(one)
    seen = await store.effects.get(session.id, name)
    await store.effects.replace(session.id, name, seen, packed(many))
    before = time.process_time()
    assert await ledger.inherited(one) == many
    assert time.process_time() - before < 8


async def test_a_call_that_is_listed_and_was_not_begun_is_none(ledger, writer, monkeypatch):
    session = await writer.session([1, 2, 3, 4])

    async def dies(*_, **__):
        raise ConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_change", dies)
        with pytest.raises(ConnectionError):
            await ledger.begin(entry(session.id, session.head))
    fork = await writer.store.fork(session.id)
    assert await _inherited(ledger, fork.id, session.head) == []
    assert await ledger.begin(entry(session.id, session.head)) is None
    assert await _inherited(ledger, fork.id, session.head) == [(session.id, session.head)]


async def test_a_ledger_goes_with_its_session(ledger, writer):
    session = await writer.session([1, 2, 3, 4])
    await ledger.begin(entry(session.id, session.head))
    await writer.store.delete_session(session.id)
    with pytest.raises(NotFound):
        await ledger.find(entry(session.id, session.head))


async def _inherited(ledger, branch, point, what="sheep"):
    return [(one.branch, one.point) for one in await ledger.inherited(entry(branch, point, what))]


DAMAGED = [b"\xc1", b"\x90", b"\x92\x01\x07", b"\x92\x02\x91\x80", b"\x93\x03\x01\x02", b"{}"]


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_a_damaged_entry_says_so(ledger, writer, store, damaged):
    session = await writer.session([1, 2, 3, 4])
    called = entry(session.id, session.head)
    name = name_of_entry(called)
    await store.effects.replace(
        session.id, name, await store.effects.get(session.id, name), damaged
    )
    with pytest.raises(CorruptObject):
        await ledger.find(called)
    with pytest.raises(CorruptObject):
        await ledger.of(session.id)


@pytest.mark.parametrize("damaged", [*DAMAGED, b"\x92\x01\x90", b"\x93\x02\x00\x91\x01"])
async def test_a_damaged_list_of_calls_says_so(ledger, writer, store, damaged):
    session = await writer.session([1, 2, 3, 4])
    called = entry(session.id, session.head)
    name = name_of(called)
    await store.effects.replace(
        session.id, name, await store.effects.get(session.id, name), damaged
    )
    for method in (ledger.begin, ledger.inherited):
        with pytest.raises(CorruptObject):
            await method(called)
