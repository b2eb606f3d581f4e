"""An operation whose reply is lost is sent again, and has still happened once."""

from __future__ import annotations

import pytest
from proxy import Proxy
from writer import RANKS, TENANT, Writer

from state_store.connection import Script
from state_store.errors import LeaseHeld
from state_store.feeds import START, Post
from state_store.store import StateStore


@pytest.fixture
def proxy(server, tmp_path):
    running = Proxy(tmp_path / "proxy.sock", server.url)
    yield running
    running.close()


@pytest.fixture
async def flaky(proxy, objects, prefix):
    """A writer whose store is reached through the proxy; its scripts are known to the server."""
    async with await StateStore.connect(proxy.url, prefix=prefix) as store:
        writer = Writer(store, objects, prefix)
        session = await writer.session([1, 2, 3, 4])
        branch = await store.fork(session.id)
        await store.delete_session(branch.id)
        yield writer, session


@pytest.fixture
def lose(flaky, proxy, monkeypatch):
    """Has the reply to each run of these scripts be lost once. They are known to the server: else
    the lost reply would be that it does not know them."""
    control, lost = flaky[0].store._control, []
    run, exchange = control.run, control.exchange

    async def losing(sent):
        proxy.lose_next_reply = True
        reply = await sent
        lost.append(not proxy.lose_next_reply)
        return reply

    def lose(*scripts):
        def run_losing(script, *arguments):
            sent = run(script, *arguments)
            return losing(sent) if script in scripts else sent

        def exchange_losing(*steps):
            sent = exchange(*steps)
            names = {one.name for step in steps for one in step if isinstance(one, Script)}
            return losing(sent) if names & {*scripts} else sent

        monkeypatch.setattr(control, "run", run_losing)
        monkeypatch.setattr(control, "exchange", exchange_losing)

    yield lose
    assert lost
    assert all(lost)


async def test_a_fork_holds_its_head_once(flaky, lose):
    writer, session = flaky
    lose("fork")
    branch = await writer.store.fork(session.id)
    assert await writer.history(branch.id) == [1, 2, 3, 4]
    assert await writer.problems() == []


async def test_a_lease_is_the_callers_and_nobody_elses(flaky, proxy):
    writer, session = flaky
    proxy.lose_next_reply = True
    lease = await writer.lease(session.id)
    assert not proxy.lose_next_reply
    with pytest.raises(LeaseHeld):
        await writer.lease(session.id)
    await writer.store.renew(lease, ttl=30)


async def test_a_commit_counts_its_snapshot_once(flaky, lose):
    writer, session = flaky
    draft = await writer.draft(session.id, [5, 6, 7, 8])
    writer.put(draft)
    lease = await writer.lease(session.id)
    lose("commit")
    done = await writer.store.commit(draft, lease=lease, durability="memory")
    assert await writer.store.snapshot(done.snapshot.id) == done.snapshot
    report = await writer.store.check_integrity()
    assert (report.objects, report.problems) == (4 * RANKS, [])


async def test_what_is_kept_with_a_session_is_counted_once(flaky, lose, monkeypatch):
    writer, session = flaky
    attachments = writer.store.attachments
    await attachments.put(session, "a", b"x" * 10, ttl=60)
    lose("attach")
    await attachments.change(session, {"a": None, "b": b"x" * 20}, ttl=60)
    assert await attachments.get(session, "a") is None
    seen = {"a": None, "b": await attachments.read(session, "b")}
    assert await attachments.change(session, {"a": b"x", "b": b"y" * 10}, ttl=60, seen=seen)
    assert not await attachments.change(session, {"a": b"z"}, ttl=60, seen=seen)
    assert await attachments.delete(session, "a")
    assert not await attachments.delete(session, "a")
    monkeypatch.undo()
    assert await attachments.get(session, "b") == b"y" * 10
    assert (await writer.store.usage_report(TENANT)).attached_bytes == 11


async def test_a_turn_and_what_it_goes_on_from_are_counted_once(flaky, lose):
    writer, session = flaky
    await writer.turn(session.id, [5, 6, 7, 8])
    session = await writer.store.session(session.id)
    first = await writer.instead_of(session, 1, [9] * 4)
    draft = await writer.going_on(first, [10] * 4)
    for one in draft.chain:
        writer.put(one)
    lease = await writer.lease(session.id)
    lose("commit")
    done = await writer.store.commit(draft, lease=lease, durability="memory")
    assert await writer.store.snapshot(done.snapshot.id) == done.snapshot
    report = await writer.store.check_integrity()
    assert (report.objects, report.problems) == (6 * RANKS, [])


async def test_a_deletion_is_no_error(flaky, lose):
    writer, session = flaky
    branch = await writer.store.fork(session.id)
    await writer.turn(branch.id, [5, 6, 7, 8])
    await writer.store.delete_session(branch.id)  # the server knows the scripts from here on
    lose("delete", "bury")
    await writer.store.delete_session(session.id)
    report = await writer.store.check_integrity()
    assert (report.sessions, report.snapshots, report.problems) == (0, 0, [])


async def test_a_head_moves_back_once(flaky, lose):
    writer, session = flaky
    await writer.turn(session.id, [5, 6, 7, 8])
    await writer.rewind(session.id, session.head)  # the server knows the script from here on
    await writer.turn(session.id, [5, 6, 7, 8])
    lose("rewind")
    assert (await writer.rewind(session.id, session.head)).head == session.head
    report = await writer.store.check_integrity()
    assert (report.snapshots, report.problems) == (1, [])


async def test_what_is_told_of_a_session_is_told_once(flaky, lose):
    writer, session = flaky
    branch = await writer.store.fork(session.id)
    feeds = writer.store.feeds
    posts = [Post(one, value) for value in (b"1", b"2", b"2") for one in (session.id, branch.id)]
    await feeds.publish(posts[:1])  # the server knows the script from here on
    lose("publish")
    await feeds.publish(posts)
    await feeds.publish([Post(branch.id, b"gone", is_last=True)])
    found = await feeds.after({session.id: START, branch.id: START})
    assert [entry.value for entry in found[session.id]] == [b"1", b"1", b"2", b"2"]
    assert [entry.place.number for entry in found[session.id]] == [1, 2, 3, 4]
    assert [entry.value for entry in found[branch.id]] == [b"gone"]
