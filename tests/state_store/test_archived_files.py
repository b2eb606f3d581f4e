"""Contents of files leave Redis with their session, can be named there, and come back with it."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from dataclasses import replace
from types import SimpleNamespace

import pytest
from author import Author
from sealing import TURN, VAULT
from shelf import Steps, dies
from test_file_sets import contents, keep, turn
from writer import TENANT, Writer, commit

from state_store.archive.collect import collect_orphans
from state_store.archive.collect_files import collect_files
from state_store.archive.policy import ArchivePolicy
from state_store.errors import (
    ArchivedObjectsLost,
    ArchiveUnavailable,
    CorruptObject,
    FilesMissing,
    StoreFull,
)
from state_store.layout import LineageKeys, TenantKeys, lineage_of
from state_store.quotas import Quota
from state_store.store import StateStore

ONE, TWO, THREE = (bytes([number]) * 3000 for number in (1, 2, 3))
SMALL = b"small"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "archive"


@pytest.fixture(autouse=True)
def nothing_is_old_enough_to_wait_for(monkeypatch):
    """Whatever moves left behind may be collected at once: nobody else moves anything."""
    for name in ("MOVE_LIMIT", "ORPHAN_AGE"):
        monkeypatch.setattr(f"state_store.archiving.{name}", 0)


@pytest.fixture
def connected(server, prefix, folder):
    """A process on the store and its archive."""

    def connect():
        url = f"file://{folder}"
        return StateStore.connect(server.url, prefix=prefix, archive=url, vault=VAULT)

    return connect


@pytest.fixture
async def store(connected):
    async with await connected() as opened:
        yield opened


@pytest.fixture
def keys(prefix):
    return lambda session: LineageKeys(prefix, lineage_of(session.id))


def archived(folder) -> list[str]:
    """Contents of files in the archive, by their names in the store."""
    found = [path for path in folder.rglob("*") if path.is_file() and "/file/" in str(path)]
    return sorted(path.name.partition(".")[0] for path in found)


async def saved(writer, *files: bytes):
    """A session with these files, and its head."""
    session = await writer.session()
    head = await turn(writer, session, range(8), await keep(writer.store, session, *files))
    return session, head


async def test_files_are_archived_with_their_session_and_resumed_elsewhere(
    writer, connected, raw, keys, folder
):
    session, head = await saved(writer, ONE, TWO, SMALL)
    moved = await writer.store.archive_session(session.id)
    assert (moved.left, moved.problems) == (0, [])
    blobs = raw.keys(f"{keys(session).blob('')}*")
    assert [raw.get(key) for key in blobs] == [SMALL]
    assert len(archived(folder)) == 2
    assert await contents(writer.store, session, head) == [ONE, TWO, SMALL]  # where they are
    assert await writer.problems() == []
    assert (await writer.store.usage_report(TENANT)).archived_file_bytes == len(ONE + TWO)

    async with await connected() as elsewhere:
        await elsewhere.bring_back(session.id, whole=False)
    assert len(raw.keys(f"{keys(session).blob('')}*")) == 3
    assert {raw.ttl(key) for key in raw.keys(f"{keys(session).blob('')}*")} == {-1}
    assert await contents(writer.store, session, head) == [ONE, TWO, SMALL]
    assert (await writer.store.usage_report(TENANT)).archived_file_bytes == 0
    await writer.store.recover(older_than=0)
    assert archived(folder) == []
    assert await writer.problems() == []


async def test_a_resume_brings_back_the_files_of_the_head_and_all_of_it_those_before(
    writer, raw, keys
):
    session, first = await saved(writer, ONE)
    second = await turn(writer, session, range(8), await keep(writer.store, session, TWO))
    await writer.store.archive_session(session.id)
    await writer.store.bring_back(session.id, whole=False)
    assert [raw.get(key) for key in raw.keys(f"{keys(session).blob('')}*")] == [TWO]
    await writer.store.bring_back(session.id)
    assert len(raw.keys(f"{keys(session).blob('')}*")) == 2
    assert await contents(writer.store, session, first) == [ONE]
    assert await contents(writer.store, session, second) == [TWO]


async def test_archived_files_are_there_for_who_keeps_commits_and_forks(writer, raw, keys, folder):
    store = writer.store
    session, head = await saved(writer, ONE, TWO)
    await store.archive_session(session.id)
    fork = await store.fork(session.id)
    names = (await store.files.get_set(session, head.files)).blobs
    assert await store.files.missing(fork, [*names, "ab" * 32]) == ["ab" * 32]
    assert await store.files.measured(fork, names) == dict.fromkeys(names, 3000)
    await store.files.require(fork, head.files)
    one = await turn(writer, fork, range(8), await keep(store, fork, SMALL))
    (small,) = (await store.files.get_set(fork, one.files)).blobs
    named = await store.files.put_set(fork, replace(
        await store.files.get_set(session, head.files), blobs=(names[0], small)
    ))  # fmt: skip
    two = await turn(writer, fork, range(8), named)
    assert await contents(store, fork, two) == [ONE, SMALL]
    assert two.file_bytes > 3000
    assert await store.files.sizes(fork, named) == {names[0]: 3000, small: 5}
    assert await writer.problems() == []
    await store.delete_session(session.id)
    assert await contents(store, fork, two) == [ONE, SMALL]
    await store.delete_session(fork.id)
    await store.recover(older_than=0)
    assert archived(folder) == []
    assert not raw.keys(f"{keys(session).cold_files}*")
    assert await writer.problems() == []


async def test_what_another_session_uses_stays(writer, raw, prefix, keys):
    store = writer.store
    session, _ = await saved(writer, ONE, TWO)
    fork = await store.fork(session.id)
    await turn(writer, session, range(8), await keep(store, session, ONE, THREE))
    await store.archive_session(session.id)
    held = {raw.get(key) for key in raw.keys(f"{keys(session).blob('')}*")}
    assert held == {ONE, TWO}
    raw.zadd(TenantKeys(prefix, TENANT).used, {fork.id: raw.time()[0] - 100})
    await store.archive_session(session.id)
    assert not raw.keys(f"{keys(session).blob('')}*")


async def test_a_sweep_moves_files_for_a_tenants_quota_and_leaves_no_session_half_way(
    writer, raw, prefix, keys
):
    store = writer.store
    session, _ = await saved(writer, ONE, TWO, SMALL)
    used = TenantKeys(prefix, TENANT).used
    raw.zadd(used, {session.id: raw.time()[0] - 100})
    resident = (await store.snapshot((await store.session(session.id)).head)).device_bytes
    assert (
        await store.sweep(ArchivePolicy(tenant_quota_bytes=resident + 7000, spare=0))
    ).sessions == []
    report = await store.sweep(ArchivePolicy(tenant_quota_bytes=resident + 5000, spare=0))
    assert [one.reason for one in report.sessions] == ["quota"]
    assert len(raw.keys(f"{keys(session).blob('')}*")) == 1
    assert not raw.zrange(used, 0, -1)


async def test_a_session_with_an_empty_file_is_archived_once_and_not_at_every_sweep(
    writer, raw, prefix
):
    session, _ = await saved(writer, ONE, b"")
    used = TenantKeys(prefix, TENANT).used
    raw.zadd(used, {session.id: raw.time()[0] - 100})
    (swept,) = (await writer.store.sweep(ArchivePolicy(tenant_quota_bytes=1, spare=0))).sessions
    assert swept.moved.left == 0
    assert not raw.zrange(used, 0, -1)


async def test_bookkeeping_that_cannot_be_read_keeps_no_other_file_in_the_archive(
    writer, raw, prefix, keys, folder
):
    store = writer.store
    session, _ = await saved(writer, ONE)
    await store.archive_session(session.id)
    await store.delete_session(session.id)
    await store.recover(older_than=0)  # the lineage is gone, and its files are condemned
    lost = LineageKeys(prefix, "ab" * 8)
    raw.hset(lost.condemned_files, mapping={"nameless": 1, f"{'cd' * 32} no-generation": 1})
    raw.set(LineageKeys(prefix, "cd" * 8).condemned_files, "of a wrong type")
    raw.set(LineageKeys(prefix, "ef" * 8).cold_files, "of a wrong type")
    collected = (await store.recover(older_than=0)).collected
    assert archived(folder) == []
    assert not raw.exists(lost.condemned_files)
    assert (collected.damaged, collected.waiting) == (2, 1)


async def test_archived_files_count_for_the_quota(writer, raw):
    store = writer.store
    session, _ = await saved(writer, ONE, TWO)
    before = (await store.usage_report(TENANT)).file_bytes
    await store.archive_session(session.id)
    assert (await store.usage_report(TENANT)).file_bytes == before
    await store.set_quota(TENANT, Quota(bytes=before))
    with pytest.raises(Exception, match="quota"):
        await store.files.put(session, [THREE])


async def test_files_that_are_let_go_of_in_the_archive_can_be_held_again_for_a_while(
    writer, raw, keys, folder
):
    store = writer.store
    session, first = await saved(writer, SMALL)
    named = await keep(store, session, ONE)
    await turn(writer, session, range(8), named)
    await store.archive_session(session.id)
    await writer.rewind(session.id, first.id)
    await store.recover(older_than=0)
    assert len(archived(folder)) == 1  # a set was said to be there
    assert await writer.problems() == []
    second = await turn(writer, session, range(8), named)
    assert await contents(store, session, second) == [ONE]
    await writer.rewind(session.id, first.id)
    (name,) = archived(folder)
    known = raw.hget(keys(session).cold_files, name).rpartition(b" ")[0]
    raw.hset(keys(session).cold_files, name, known + b" 1")  # its time is over
    await store.recover(older_than=0)
    assert archived(folder) == []
    assert await store.files.missing(session, [name]) == [name]


async def test_files_of_an_encrypted_tenant_are_sealed_in_the_archive_and_go_at_once(
    store, objects, prefix, raw, connected, folder, server
):
    await store.create_tenant("ann", encrypted=True)
    author = Author(store, objects, prefix)
    session = await author.session("ann")
    secret = b"secret " * 400
    named = await keep(store, session, secret)
    await author.put(draft := replace(await author.draft(session.id, TURN), files=named))
    head = (await commit(store, draft)).snapshot
    async with await StateStore.connect(
        server.url, prefix=prefix, archive=f"file://{folder}"
    ) as keyless:  # moving needs no key
        await keyless.archive_session(session.id, spare=0)
        assert (await keyless.check_integrity()).problems == []
    (path,) = [path for path in folder.rglob("*") if path.is_file() and "/file/" in str(path)]
    assert b"secret" not in path.read_bytes()
    assert await contents(store, session, head) == [secret]
    await store.delete_session(session.id)
    await store.recover(older_than=0)
    assert archived(folder) == []
    assert (await store.check_integrity()).problems == []


async def test_an_archive_that_fails_is_not_asked_for_every_file(writer, folder, monkeypatch):
    """It may take a minute to say so, each time."""
    files = [secrets.token_bytes(2000) for _ in range(40)]
    session, head = await saved(writer, *files)
    await writer.store.archive_session(session.id)
    kept = [path for path in folder.rglob("*") if path.is_file() and "/file/" in str(path)]
    assert len(kept) == 40
    for path in kept:
        path.rename(path.with_name("." + path.name))
        path.symlink_to(path)  # which leads nowhere
    archive = writer.store._archiving._opened.archive
    asked, read = [], archive.get_into

    def noted(name, value):
        asked.append(name)
        return read(name, value)

    monkeypatch.setattr(archive, "get_into", noted)
    with pytest.raises(ArchiveUnavailable):
        await writer.store.bring_files_back(await writer.store.session(session.id))
    assert 0 < len(asked) < 20
    for path in kept:
        path.unlink()
        path.with_name("." + path.name).rename(path)
    moved = await writer.store.bring_files_back(await writer.store.session(session.id))
    assert (moved.objects, moved.problems) == (40, [])
    assert await contents(writer.store, session, head) == files


async def test_without_the_archive_a_file_in_it_cannot_be_read_and_nothing_is_lost(
    writer, server, prefix
):
    session, head = await saved(writer, ONE)
    await writer.store.archive_session(session.id)
    async with await StateStore.connect(server.url, prefix=prefix) as without:
        with pytest.raises(ArchiveUnavailable, match="--archive URL"):
            await contents(without, session, head)
    assert await contents(writer.store, session, head) == [ONE]


@pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
async def test_what_the_archive_has_lost_is_said_and_can_be_sent_again(
    writer, raw, keys, folder, damage
):
    store = writer.store
    session, head = await saved(writer, ONE, TWO)
    await store.archive_session(session.id)
    (name,) = (one for one in archived(folder) if is_name_of(one, ONE))
    (path,) = folder.rglob(f"{name}.*")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(TWO if damage == "changed" else ONE[:-1])
    with pytest.raises(CorruptObject):
        await store.files.get(session, name)
    with pytest.raises(ArchivedObjectsLost):
        await store.bring_back(session.id)
    assert [raw.get(key) for key in raw.keys(f"{keys(session).blob('')}*")] == [TWO]
    report = await store.check_integrity()
    assert [one.kind for one in report.problems] == ["file-lost"]
    report = await store.check_integrity(repair=True)
    assert [one.kind for one in report.problems] == ["file-missing"]
    with pytest.raises(FilesMissing):
        await store.files.get(session, name)
    assert await store.files.missing(session, [name]) == [name]
    await store.files.put(session, [ONE])
    assert await contents(store, session, head) == [ONE, TWO]
    assert await writer.problems() == []


@pytest.mark.parametrize("size", [6 << 20, 10**12])
async def test_no_more_memory_is_taken_for_an_archived_file_than_a_content_can_have(
    writer, raw, keys, folder, size
):
    session, _ = await saved(writer, ONE)
    await writer.store.archive_session(session.id)
    (name,), cold = archived(folder), keys(session).cold_files
    generation, _, digest = raw.hget(cold, name).split()
    raw.hset(cold, name, b"%s %d %s" % (generation, size, digest))
    with pytest.raises(CorruptObject, match="does not say where"):
        await writer.store.files.get(session, name)
    with pytest.raises(ArchivedObjectsLost):
        await writer.store.bring_back(session.id)


async def test_a_content_that_is_sent_again_is_in_redis_again(writer, raw, keys, folder):
    session, head = await saved(writer, ONE)
    await writer.store.archive_session(session.id)
    await writer.store.files.put(session, [ONE])
    assert not raw.exists(keys(session).cold_files)
    assert {raw.ttl(key) for key in raw.keys(f"{keys(session).blob('')}*")} == {-1}
    await writer.store.recover(older_than=0)
    assert archived(folder) == []
    assert await contents(writer.store, session, head) == [ONE]


async def test_what_is_wrong_with_what_is_known_of_archived_files_is_mended(writer, raw, keys):
    store = writer.store
    session, head = await saved(writer, ONE, TWO)
    await store.archive_session(session.id)
    cold = keys(session).cold_files
    first, second = sorted(raw.hkeys(cold))
    raw.hset(cold, "ab" * 32, raw.hget(cold, first))  # of nobody
    raw.set(keys(session).blob(second.decode()), TWO if is_name_of(second.decode(), TWO) else ONE)
    found = {problem.kind for problem in (await store.check_integrity()).problems}
    assert "file-archived" in found
    report = await store.check_integrity(repair=True)
    assert {one.kind for one in report.problems} <= {"file-lost"}
    assert await contents(store, session, head) == [ONE, TWO]
    raw.hset(cold, first, "not a generation")
    report = await store.check_integrity(repair=True)
    assert {one.kind for one in report.problems} == {"file-missing"}


async def test_a_full_store_takes_no_files_back_and_they_stay_readable(own_server, tmp_path):
    url = f"file://{tmp_path / 'archive'}"
    async with await StateStore.connect(own_server.url, archive=url) as store:
        writer = Writer(store, store._control.bulk(), "torpor")
        session = await writer.session()
        big = secrets.token_bytes(1 << 20)
        head = await turn(writer, session, range(8), await keep(store, session, big))
        await store.archive_session(session.id)
        async with store._control.guard() as client:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used + (256 << 10))
        with pytest.raises(StoreFull):
            await store.bring_back(session.id)
        assert await contents(store, session, head) == [big]
        writer.client.close()


def is_name_of(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == name


@contextlib.asynccontextmanager
async def disturbed(connected, writer, *, out: bool):
    """A session with files, and another process whose moves can be disturbed."""
    session, head = await saved(writer, ONE, TWO, SMALL)
    if out:
        await writer.store.archive_session(session.id)
    async with await connected() as victim:
        archivist = victim._archiving._opened.archivist
        steps = Steps(archivist)
        yield SimpleNamespace(session=session, head=head, steps=steps, archivist=archivist)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("out", [True, False])
async def test_a_move_that_dies_anywhere_loses_nothing_and_leaves_nothing(
    writer, connected, folder, when, out, monkeypatch
):
    monkeypatch.setattr("state_store.archive.files._WORKERS", 1)
    store, at, finished = writer.store, 0, False
    while not finished:
        at += 1
        async with disturbed(connected, writer, out=not out) as world:
            history = [world.head]
            files = world.archivist.files
            move = files.move_out(history) if out else files.bring_back(history)
            finished = await dies(world.steps, (when, at), move)
        assert await contents(store, world.session, world.head) == [ONE, TWO, SMALL]
        assert await writer.problems() == []
        place = (store._control, writer.prefix, store._archiving.archive)
        await collect_files(*place, older_than=0)
        await collect_orphans(*place, older_than=0)
        assert await contents(store, world.session, world.head) == [ONE, TWO, SMALL]
        assert await writer.problems() == []
        again = store._archiving._opened.archivist.files
        await (again.move_out([world.head]) if out else again.bring_back([world.head]))
        await collect_files(*place, older_than=0)
        assert len(archived(folder)) == (2 if out else 0)
        await store.delete_session(world.session.id)
        await store.recover(older_than=0)
        assert archived(folder) == []
    assert at > 5
