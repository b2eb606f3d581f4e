"""Sessions and snapshots are found by their labels, also after crashes and by nobody else."""

from __future__ import annotations

import contextlib
import secrets

import pytest
from writer import FINGERPRINT, TENANT, Trips, Writer, find_sessions

from state_store.errors import ForeignTenant, InvalidLabels, NotFound, StoreError
from state_store.layout import LineageKeys, TenantKeys, is_snapshot_id, lineage_of
from state_store.store import StateStore


async def found(writer, **labels) -> list[str]:
    return [session.id for session in await find_sessions(writer.store, TENANT, labels)]


def listed(raw, prefix) -> dict[str, set[str]]:
    """Label -> ids that are listed under it; sessions among them by creation too."""
    both = {kind: lists(raw, prefix, kind) for kind in ("label", "labelled")}
    sessions = {
        label: {one for one in ids if not is_snapshot_id(one)}
        for label, ids in both["label"].items()
    }
    assert both["labelled"] == {label: ids for label, ids in sessions.items() if ids}
    return both["label"]


def lists(raw, prefix, kind) -> dict[str, set[str]]:
    return {
        key.decode().partition(f"}}:{kind}:")[2]: {one.decode() for one in raw.zrange(key, 0, -1)}
        for key in raw.keys(f"{prefix}:{{tenant:{TENANT}}}:{kind}:*")
    }


def age(raw, prefix, seconds=61) -> None:
    """As if everything had been listed that much earlier."""
    for key in raw.keys(f"{prefix}:{{tenant:*}}:label:*"):
        for one, at in raw.zrange(key, 0, -1, withscores=True):
            raw.zadd(key, {one: at - seconds})


async def create(writer, **labels):
    return await writer.store.create_session(tenant=TENANT, fingerprint=FINGERPRINT, labels=labels)


async def test_sessions_are_found_by_all_of_the_labels_newest_first(writer):
    one = await create(writer, team="a", task="x")
    two = await create(writer, team="a", task="y")
    three = await writer.store.fork(one.id, labels={"team": "a", "task": "x"})
    four = await writer.store.branch_at(two.id, tokens=0, labels={"team": "b"})
    assert await found(writer, team="a") == [three.id, two.id, one.id]
    assert await found(writer, team="a", task="x") == [three.id, one.id]
    assert await found(writer, team="b") == [four.id]
    assert await found(writer, team="b", task="x") == []
    assert await found(writer, team="c") == []
    assert (await find_sessions(writer.store, TENANT, {"task": "y"}))[0] == two


async def test_labels_are_replaced_and_found_at_once(writer):
    session = await create(writer, status="running", kept="1")
    await writer.store.set_labels(session.id, {"status": "done", "kept": "1"})
    assert await found(writer, status="running") == []
    assert await found(writer, status="done") == await found(writer, kept="1") == [session.id]
    assert (await writer.store.session(session.id)).labels == {"status": "done", "kept": "1"}
    await writer.store.set_labels(session.id, {})
    assert await found(writer, kept="1") == []
    assert (await writer.store.session(session.id)).labels == {}


async def test_labels_do_not_change_the_head_or_the_lease(writer):
    session = await writer.session([1, 2, 3, 4])
    lease = await writer.lease(session.id)
    await writer.store.set_labels(session.id, {"a": "b"})
    await writer.store.renew(lease, ttl=30)
    assert (await writer.store.session(session.id)).head == session.head


async def test_snapshots_have_labels_of_their_own_for_as_long_as_they_are_held(writer):
    session = await writer.session([1, 2, 3, 4], [5])
    first = (await writer.store.ancestors(session.head))[0].id
    await writer.store.set_labels(first, {"name": "start"})
    await writer.store.set_labels(session.head, {"name": "end"})
    await writer.store.set_labels(session.id, {"name": "start"})
    snapshots = await writer.store.find_snapshots(TENANT, {"name": "start"})
    assert snapshots == [await writer.store.snapshot(first)]
    assert await found(writer, name="start") == [session.id]
    assert await writer.store.labels([first, session.head, session.id]) == {
        first: {"name": "start"}, session.head: {"name": "end"}, session.id: {"name": "start"},
    }  # fmt: skip
    branch = await writer.store.fork(session.id, snapshot_id=first)
    await writer.store.delete_session(session.id)
    assert await writer.store.find_snapshots(TENANT, {"name": "start"}) == snapshots
    assert await writer.store.find_snapshots(TENANT, {"name": "end"}) == []
    await writer.store.delete_session(branch.id)
    assert await writer.store.find_snapshots(TENANT, {"name": "start"}) == []
    assert await writer.store.labels([first]) == {first: {}}
    assert await writer.problems() == []


async def test_a_deleted_session_leaves_no_label(writer, raw, prefix):
    session = await create(writer, a="1", b="2")
    await writer.store.delete_session(session.id)
    assert listed(raw, prefix) == {}


async def test_a_fork_that_is_refused_leaves_no_label(writer, raw, prefix):
    session = await writer.session([1])
    gone = (await writer.turn((await writer.store.fork(session.id)).id, [2])).snapshot
    await writer.store.delete_session(gone.session_id)
    with pytest.raises(NotFound):
        await writer.store.fork(session.id, snapshot_id=gone.id, labels={"a": "1"})
    assert listed(raw, prefix) == {}


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({f"n{n}": "" for n in range(33)}, "33 labels are more than 32"),
        ({"": "x"}, "a name has 1 to 64"),
        ({"n" * 65: "x"}, "a name has 1 to 64"),
        ({1: "x"}, "a name has 1 to 64"),
        ({"a b": "x"}, "letters, digits"),
        ({"a=b": "x"}, "letters, digits"),
        ({"a}": "x"}, "letters, digits"),
        ({"é": "x"}, "letters, digits"),
        ({"a": "x" * 257}, "at most 256 printable"),
        ({"a": "x\n"}, "at most 256 printable"),
        ({"a": "\ud800"}, "at most 256 printable"),
        ({"a": 1}, "at most 256 printable"),
        ({"a": None}, "at most 256 printable"),
    ],
)
async def test_labels_beyond_the_limits_are_refused_and_nothing_changes(
    writer, raw, prefix, labels, why
):
    session = await create(writer, old="1")
    for call in (
        writer.store.set_labels(session.id, labels),
        writer.store.fork(session.id, labels=labels),
        writer.store.create_session(tenant=TENANT, fingerprint=FINGERPRINT, labels=labels),
        find_sessions(writer.store, TENANT, labels),
    ):
        with pytest.raises(InvalidLabels, match=why):
            await call
    assert await writer.store.sessions(TENANT) == [session]
    assert listed(raw, prefix) == {"old=1": {session.id}}


@pytest.mark.parametrize(
    "labels",
    [
        {f"n{n}": "" for n in range(32)},
        {"N" * 64: "v" * 256},
        {"a.b/c_d-0": "=}{tenant:x}:label:a=b*?[é ✓]"},
    ],
)
async def test_labels_within_the_limits_are_found_and_recovered(writer, labels, raw, prefix):
    session = await create(writer, **labels)
    assert await found(writer, **labels) == [session.id]
    before = listed(raw, prefix)
    await writer.store.recover(older_than=0)
    assert listed(raw, prefix) == before != {}


async def test_a_search_for_nothing_is_refused(writer):
    with pytest.raises(InvalidLabels, match="at least one"):
        await writer.store.find_snapshots(TENANT, {})


async def test_nobody_finds_or_labels_what_is_another_tenants(writer):
    session = await writer.session([1])
    for one in (session.id, session.head):
        with pytest.raises(ForeignTenant):
            await writer.store.set_labels(one, {"a": "1"}, tenant="other")
        await writer.store.set_labels(one, {"a": "1"}, tenant=TENANT)
    assert await find_sessions(writer.store, "other", {"a": "1"}) == []
    assert await writer.store.find_snapshots("other", {"a": "1"}) == []


async def test_what_is_not_there_gets_no_labels(writer, raw, prefix):
    session = await writer.session([1])
    branch = await writer.store.fork(session.id)
    gone = (await writer.turn(branch.id, [2])).snapshot.id
    await writer.store.delete_session(branch.id)
    for one in (branch.id, gone):
        with pytest.raises(NotFound, match=one):
            await writer.store.set_labels(one, {"a": "1"})
    await writer.store.recover(older_than=0)
    assert listed(raw, prefix) == {}


async def test_what_is_listed_and_not_written_is_not_found_and_taken_off_later(writer, raw, prefix):
    session = await create(writer, a="1")
    snapshot = (await writer.session([1])).head
    keys = TenantKeys(prefix, TENANT)
    gone = session.id[:-16] + secrets.token_hex(8)
    raw.zadd(keys.label("a", "1"), {gone: raw.time()[0], snapshot: raw.time()[0]})
    raw.zadd(keys.labelled("a", "1"), {gone: raw.time()[0]})
    assert await found(writer, a="1") == [session.id]
    assert len(listed(raw, prefix)["a=1"]) == 3  # somebody may be about to write them
    age(raw, prefix)
    assert await found(writer, a="1") == [session.id]
    assert await writer.store.find_snapshots(TENANT, {"a": "1"}) == []
    assert listed(raw, prefix) == {"a=1": {session.id}}


async def test_labels_that_are_replaced_or_deleted_are_on_no_list_any_more(writer, raw, prefix):
    """At once, and whoever checks an hour later finds nothing."""
    session = await writer.session([1], [2])
    first = (await writer.store.ancestors(session.head))[0].id
    for one in (session.id, session.head, first):
        await writer.store.set_labels(one, {"a": "1", "b": "1"})
        await writer.store.set_labels(one, {"a": "2", "b": "1"})
    labelled = {session.id, session.head, first}
    assert listed(raw, prefix) == {"a=2": labelled, "b=1": labelled}
    await writer.rewind(session.id, first)
    assert listed(raw, prefix) == {"a=2": {session.id, first}, "b=1": {session.id, first}}
    age(raw, prefix, 3600)
    assert await writer.problems() == []
    await writer.store.delete_session(session.id)
    assert listed(raw, prefix) == {}


@pytest.mark.parametrize("other", ["1", "2", "3"])
async def test_of_two_who_replace_labels_each_takes_those_off_that_nobody_carries(
    writer, server, prefix, raw, other
):
    """The other one comes between any two trips of the first, and dies anywhere or not at all."""

    async def replace_and_die(trip):
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            Trips(store).crash_at = ("after", trip)
            with contextlib.suppress(StoreError):
                await store.set_labels(session.id, {"a": other})

    session = await create(writer, a="1")
    seen = set()
    for dies_at in (2, 3, 4, 5, 99):
        at, met = 0, True
        while met:
            at += 1
            await writer.store.set_labels(session.id, {"a": "1"})
            async with await StateStore.connect(server.url, prefix=prefix) as store:
                trips = Trips(store)
                trips.between = (at, lambda: replace_and_die(dies_at))  # noqa: B023
                await store.set_labels(session.id, {"a": "2"})
                met = trips.between is None
            value = (await writer.store.session(session.id)).labels["a"]
            seen.add(value)
            assert await found(writer, a=value) == [session.id]
            labels = {label for label, ids in listed(raw, prefix).items() if ids}
            assert f"a={value}" in labels
            if dies_at == 99:
                assert labels == {f"a={value}"}
            await writer.store.recover(older_than=0)
            assert listed(raw, prefix) == {f"a={value}": {session.id}}
        assert at > 4
    assert seen == {"2", other}


@pytest.mark.parametrize("first", ["delete", "label"])
async def test_a_session_that_is_deleted_while_it_is_labelled_is_on_no_list(
    writer, server, prefix, raw, first
):
    def calls(store, session_id):
        return {
            "delete": lambda: store.delete_session(session_id),
            "label": lambda: store.set_labels(session_id, {"a": "2"}),
        }

    at, met = 0, True
    while met:
        at += 1
        session = await create(writer, a="1")
        meanwhile = calls(writer.store, session.id)
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            trips = Trips(store)
            other = {"delete": "label", "label": "delete"}[first]

            async def between(act=meanwhile[other]):
                with contextlib.suppress(NotFound):
                    await act()

            trips.between = (at, between)
            with contextlib.suppress(NotFound):
                await calls(store, session.id)[first]()
            met = trips.between is None
        with contextlib.suppress(NotFound):
            await writer.store.delete_session(session.id)
        assert listed(raw, prefix) == {}
    assert at > 4


@pytest.mark.parametrize("of", ["session", "snapshot"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_labelling_that_dies_anywhere_leaves_the_old_labels_or_the_new_ones(
    writer, server, prefix, raw, of, when
):
    session = await writer.session([1])
    one = session.id if of == "session" else session.head

    def find(*asked):
        if of == "session":
            return find_sessions(writer.store, *asked)
        return writer.store.find_snapshots(*asked)

    at, done = 0, False
    seen = set()
    while not done:
        at += 1
        await writer.store.set_labels(one, {"a": "old", "kept": "1"})
        async with await StateStore.connect(server.url, prefix=prefix) as dying:
            trips = Trips(dying)
            trips.crash_at = (when, at)
            try:
                await dying.set_labels(one, {"a": "new", "kept": "1"})
                done = trips.count < at
            except StoreError:
                pass
        value = (await writer.store.labels([one]))[one]["a"]
        seen.add(value)
        for wanted in ("old", "new"):
            expected = [one] if wanted == value else []
            assert [item.id for item in await find(TENANT, {"a": wanted})] == expected
        assert [item.id for item in await find(TENANT, {"kept": "1"})] == [one]
        await writer.store.recover(older_than=0)
        assert listed(raw, prefix) == {f"a={value}": {one}, "kept=1": {one}}
    assert seen == {"old", "new"}
    assert at > 4


async def test_a_labelled_session_that_is_half_made_or_half_deleted_leaves_nothing_behind(
    writer, server, prefix, raw
):
    for operation in ("create", "delete"):
        at, done = 0, False
        while not done:
            at += 1
            doomed = await create(writer, a="1")
            async with await StateStore.connect(server.url, prefix=prefix) as dying:
                trips = Trips(dying)
                trips.crash_at = ("after", at)
                try:
                    if operation == "create":
                        await create(Writer(dying, writer.client, prefix), a="1")
                    else:
                        await dying.delete_session(doomed.id)
                    done = trips.count < at
                except StoreError:
                    pass
            there = await writer.store.sessions(TENANT)
            assert await found(writer, a="1") == [session.id for session in there]
            await writer.store.recover(older_than=0)
            assert listed(raw, prefix).get("a=1", set()) == {session.id for session in there}
            for session in there:
                await writer.store.delete_session(session.id)
            assert listed(raw, prefix) == {}
        assert at > 4


async def test_sessions_labelled_before_they_were_listed_by_creation_are_found_after_recovery(
    writer, raw, prefix
):
    sessions = [await create(writer, team="a", task=str(number)) for number in range(3)]
    raw.delete(*raw.keys(f"{prefix}:{{tenant:{TENANT}}}:labelled:*"))
    await writer.store.recover(older_than=0)
    assert await found(writer, team="a") == [one.id for one in reversed(sessions)]
    assert await found(writer, team="a", task="1") == [sessions[1].id]
    listed(raw, prefix)


async def test_recovery_while_a_session_is_labelled_does_not_hide_it(writer, server, prefix):
    at, met = 0, True
    while met:
        at += 1
        session = await writer.session()
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            trips = Trips(store)
            trips.between = (at, lambda: writer.store.recover(older_than=0))
            await store.set_labels(session.id, {"a": str(at)})
            met = trips.between is None
        assert await found(writer, a=str(at)) == [session.id]
    assert at > 4


async def test_labelling_while_recovery_looks_does_not_hide_it(writer, server, raw, prefix):
    at, met = 0, True
    session = await create(writer, a="1")
    while met:
        at += 1
        await writer.store.set_labels(session.id, {})
        keys = TenantKeys(prefix, TENANT)  # as if somebody had been about to write it
        raw.zadd(keys.label("a", "1"), {session.id: raw.time()[0]})
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            trips = Trips(store)
            trips.between = (at, lambda: writer.store.set_labels(session.id, {"a": "1"}))
            await store.recover(older_than=0)
            met = trips.between is None
        if met:
            assert await found(writer, a="1") == [session.id]
    assert at > 4


async def test_a_search_takes_few_round_trips_however_many_it_finds(writer):
    costs = []
    for count in (3, 40):
        label = {"count": str(count)}
        for _ in range(count):
            await create(writer, **label)
        await find_sessions(writer.store, TENANT, label)
        trips = Trips(writer.store)
        assert len(await find_sessions(writer.store, TENANT, label)) == count
        costs.append(trips.count)
    assert costs[0] == costs[1] <= 3


async def test_labels_that_cannot_be_read_keep_no_others_from_being_found_or_recovered(
    writer, raw, prefix
):
    first, second, stale = [(await writer.session([number])).head for number in (1, 2, 3)]
    keys = TenantKeys(prefix, TENANT)
    for one in (first, second):
        await writer.store.set_labels(one, {"a": "1"})
    raw.hset(LineageKeys(prefix, lineage_of(first)).snapshot(first), "labels", b"\x02?")
    raw.zadd(keys.label("a", "1"), {stale: 1, "no id": 1})
    found = await writer.store.find_snapshots(TENANT, {"a": "1"})
    assert [one.id for one in found] == [second]
    await writer.store.recover(older_than=0)
    left = {one.decode() for one in raw.zrange(keys.label("a", "1"), 0, -1)}
    assert left == {first, second, "no id"}
