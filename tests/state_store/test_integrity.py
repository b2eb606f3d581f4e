"""The integrity check reports every kind of damage, and nothing on a store that is in order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgpack
import pytest
from writer import RANKS

from state_store.codec import HEADER_BYTES
from state_store.integrity import Kind
from state_store.layout import LineageKeys, ObjectRef, lineage_of
from state_store.store import StateStore


@pytest.fixture
async def session(writer):
    """A session of two turns and a fork of its first, beside one of another lineage."""
    made = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    first = (await writer.store.ancestors(made.head))[0].id
    await writer.store.fork(made.id, snapshot_id=first)
    await writer.session([9])
    assert await writer.problems() == []
    return made


@pytest.fixture
async def head(writer, session):
    return await writer.store.snapshot(session.head)


@pytest.fixture
def keys(session, prefix):
    return LineageKeys(prefix, lineage_of(session.id))


async def only_problem(writer) -> str:
    problems = await writer.problems()
    assert len(problems) == 1, problems
    return problems[0]


async def test_a_store_in_order_is_counted_and_has_no_problems(writer, session, raw):
    report = await writer.store.check_integrity()
    assert (report.sessions, report.snapshots) == (3, 3)
    assert report.objects == 4 * RANKS
    assert report.object_bytes == 2 * RANKS * (2 * HEADER_BYTES + 96 + 160)
    assert report.unheld == 0


async def test_objects_waiting_for_a_commit_are_counted_but_no_problem(writer, session):
    writer.put(await writer.draft(session.id, [0] * 8))
    report = await writer.store.check_integrity()
    assert (report.unheld, report.problems) == (3 * RANKS, [])


@pytest.mark.parametrize("kind", ["kv", "state"])
@pytest.mark.parametrize("rank", range(RANKS))
async def test_a_deleted_object_is_reported(writer, head, raw, kind, rank):
    key = writer.names()[rank].key(ObjectRef(kind, head.boundary_hash))
    raw.delete(key)
    assert await only_problem(writer) == f"{key.decode()}: missing"


@pytest.mark.parametrize("position", [0, 70, 100, HEADER_BYTES, HEADER_BYTES + 95])
async def test_a_flipped_byte_is_reported(writer, head, raw, position):
    key = writer.names()[1].key(ObjectRef("kv", head.boundary_hash))
    value = raw.getrange(key, position, position)
    raw.setrange(key, position, bytes([value[0] ^ 1]))
    assert "checksum" in await only_problem(writer)


async def test_an_object_under_the_key_of_another_is_reported(writer, head, raw):
    names = writer.names()[0]
    other = next(iter((await writer.store.ancestors(head.id))[0].page_chain))
    raw.set(
        names.key(ObjectRef("kv", head.boundary_hash)), raw.get(names.key(ObjectRef("kv", other)))
    )
    assert "another one" in await only_problem(writer)


@pytest.mark.parametrize("change", [1, -1])
async def test_a_wrong_reference_count_is_reported(writer, head, raw, keys, change):
    raw.hincrby(keys.refs, head.id, change)
    expected = f"{head.id}: counts {1 + change} references, has 1"
    assert await only_problem(writer) == expected


async def test_a_missing_token_log_is_reported(writer, head, raw, keys):
    raw.delete(keys.tokens(head.id))
    assert await only_problem(writer) == f"{head.id}: token log has 0 bytes"


async def test_a_token_log_that_is_cut_short_is_reported(writer, head, raw, keys):
    raw.set(keys.tokens(head.id), raw.get(keys.tokens(head.id))[:-4])
    assert await only_problem(writer) == f"{head.id}: token log has 12 bytes"


async def test_a_lost_pin_is_reported(writer, head, raw):
    raw.delete(writer.names()[0].pins_key(ObjectRef("kv", head.boundary_hash)))
    assert await only_problem(writer) == f"{head.id}: does not pin kv {head.boundary_hash}"


async def test_a_held_object_that_expires_is_reported(writer, head, raw):
    raw.expire(writer.names()[1].key(ObjectRef("state", head.boundary_hash)), 100)
    assert "held, yet it expires" in await only_problem(writer)


async def test_an_object_that_nobody_holds_and_never_expires_is_reported(writer, session, raw):
    draft = await writer.draft(session.id, [0] * 4)
    writer.put(draft)
    raw.persist(writer.names()[0].key(ObjectRef("kv", draft.page_hashes[0])))
    assert "held by nobody, never expires" in await only_problem(writer)


async def test_a_pin_of_no_live_commit_is_reported(writer, head, raw):
    raw.sadd(writer.names()[0].pins_key(ObjectRef("kv", head.boundary_hash)), "stray")
    assert "pinned by stray, no live commit" in await only_problem(writer)


async def test_pins_of_a_commit_in_progress_are_no_problem(writer, head, raw, keys):
    raw.sadd(writer.names()[0].pins_key(ObjectRef("kv", head.boundary_hash)), "begun")
    raw.hset(keys.journals, "begun", msgpack.packb({"at": 0.0, "snapshot": head.pack()}))
    assert await writer.problems() == []


async def test_a_missing_snapshot_record_is_reported(writer, head, raw, keys):
    raw.delete(keys.snapshot(head.id))
    problems = await writer.problems()
    assert f"{head.id}: referenced but missing" in problems


async def test_a_snapshot_that_nobody_reaches_is_reported(writer, session, head, raw, keys):
    raw.hset(keys.session(session.id), "head", head.parent)
    assert any(f"snapshot:{head.id}: reached by nobody" in p for p in await writer.problems())


async def test_a_session_missing_from_its_lineage_is_reported(writer, session, raw, keys):
    raw.srem(keys.sessions, session.id)
    assert await only_problem(writer) == f"{session.id}: its lineage does not list it"


async def test_a_missing_session_record_is_reported(writer, session, raw, keys):
    raw.delete(keys.session(session.id))
    assert f"{session.id}: session record missing" in await writer.problems()


async def test_a_lineage_that_the_index_lost_is_reported(writer, session, raw, prefix):
    raw.srem(f"{prefix}:lineages", lineage_of(session.id))
    expected = f"{lineage_of(session.id)}: the store does not list the lineage"
    assert await only_problem(writer) == expected


async def test_archived_objects_are_counted_and_read_if_the_archive_is_open(
    server, writer, session, prefix, tmp_path
):
    url = f"file://{tmp_path}"
    async with await StateStore.connect(server.url, prefix=prefix, archive=url) as store:
        await store.archive_session(session.id, spare=0)
        report = await store.check_integrity()
        assert (report.problems, report.objects) == ([], 0)
        assert report.archived == 4 * RANKS
        assert report.archived_bytes == 2 * RANKS * (2 * HEADER_BYTES + 96 + 160)
        first, second, *_ = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        first.unlink()
        second.write_bytes(second.read_bytes()[:-1])
        report = await store.check_integrity(repair=True)
        assert {problem.kind for problem in report.problems} == {"archive"}
        assert report.repaired == report.repairable == []
    closed = await writer.store.check_integrity()
    assert (closed.problems, closed.archived, closed.archived_bytes) == ([], 4 * RANKS, 0)


def test_the_documentation_names_every_kind_of_problem():
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    section = page.split("## Integrity and repair")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([a-z-]+)`", " ".join(rows))) == sorted(get_args(Kind))
