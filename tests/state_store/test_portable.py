"""A session leaves one store as a file and is the same session in another, or nothing at all."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from safetensors import safe_open
from writer import FINGERPRINT, PAGE, TENANT, Writer, frame_of, objects_of

from state_store.codec import HEADER_BYTES, Frame
from state_store.embedded import EmbeddedServer
from state_store.encodings import Segment
from state_store.errors import (
    CorruptObject,
    ExportFailed,
    ForeignTenant,
    InvalidExport,
    InvalidTenant,
    NotFound,
    ObjectsMissing,
    VaultLocked,
)
from state_store.fingerprint import Fingerprint
from state_store.forms import StoredForm
from state_store.identity import page_hashes
from state_store.layout import PART_BYTES, ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.payloads import Payloads
from state_store.portable import export, imports, rows
from state_store.portable.besides import Besides
from state_store.records import SnapshotDraft
from state_store.store import StateStore
from state_store.vault import TenantKey

TURNS = ([1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13], [2**32 - 1])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A second server."""
    with EmbeddedServer(tmp_path_factory.mktemp("elsewhere")) as running:
        yield running


@pytest.fixture
async def other(elsewhere, prefix):
    async with await StateStore.connect(elsewhere.url, prefix=prefix) as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.torpor"


def fingerprint_with(**changes) -> Fingerprint:
    return Fingerprint(**(FINGERPRINT.model_dump() | changes))


def peak_memory(*, forget: bool = False) -> int:
    """Bytes of memory that this process has had at most; since now if what was is forgotten."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


async def contents(store: StateStore, session_id: str, client: ObjectClient, prefix: str):
    """What a session is, whatever its ids and its pages' names are: (tokens, boundary, checkpoints,
    meta) of each snapshot, and the payloads of all that it pins, in turn."""
    session = await store.session(session_id)
    if session.head is None:
        return session.labels, session.body.meta, [], []
    turns, payloads = [], []
    for snapshot in await store.ancestors(session.head):
        turns.append(
            (snapshot.total_tokens, snapshot.boundary, snapshot.checkpoints, snapshot.meta)
        )
        for rank in range(snapshot.ranks):
            names = ObjectNames(prefix, snapshot.fingerprint_id, rank)
            for ref in snapshot.objects:
                frame = memoryview(bytearray(HEADER_BYTES + snapshot.part_bytes(ref)))
                assert client.get_into([(names.key(ref), frame)]) == [len(frame)]
                payloads.append(bytes(frame[HEADER_BYTES:]))
    tokens = list(await store.tokens(session.head))
    return session.labels, session.body.meta, (turns, tokens), payloads


async def problems(store: StateStore) -> list[str]:
    return (await store.check_integrity()).problems


async def test_a_session_is_the_same_in_another_store_under_other_names(
    writer, other, elsewhere, path, objects, prefix
):
    session = await writer.store.create_session(
        tenant=TENANT, fingerprint=FINGERPRINT, labels={"a": "b"}, meta={"n": [1, {"x": b"\0"}]}
    )
    for turn in TURNS:
        await writer.turn(session.id, turn)
    exported = await writer.store.export_session(session.id, path)
    assert (exported.snapshots, exported.tokens) == (4, 14)
    assert exported.file_bytes == path.stat().st_size
    assert exported.decrypted is False
    taken = await other.import_session(path, tenant="elsewhere")
    assert taken.id != session.id
    assert taken.body.tenant == "elsewhere"
    there = ObjectClient(elsewhere.url, timeout=5.0)
    assert await contents(other, taken.id, there, prefix) == await contents(
        writer.store, session.id, objects, prefix
    )
    there.close()
    ours = await writer.store.snapshot((await writer.store.session(session.id)).head)
    theirs = await other.snapshot(taken.head)
    assert ours.boundary_hash != theirs.boundary_hash  # the tenant's salt is another
    assert await problems(other) == []


@pytest.mark.parametrize("merged", [False, True])
async def test_states_inside_a_turn_travel_too(
    writer, other, elsewhere, path, objects, prefix, merged
):
    session = await writer.session([1, 2, 3, 4, 5])
    draft = replace(await writer.draft(session.id, range(30)), checkpoints=(1, 4))
    writer.put(draft)
    lease = await writer.lease(session.id)
    head = (await writer.store.commit(draft, lease=lease, durability="memory")).snapshot
    since = head.id if merged else None
    await writer.store.export_session(session.id, path, since=since)
    taken = await other.import_session(path, tenant="elsewhere")
    found = await other.snapshot(taken.head)
    assert found.boundaries(PAGE) == head.boundaries(PAGE) == [8, 20, 32]
    assert found.checkpoints == ((2, 5) if merged else (1, 4))
    if not merged:
        there = ObjectClient(elsewhere.url, timeout=5.0)
        assert await contents(other, taken.id, there, prefix) == await contents(
            writer.store, session.id, objects, prefix
        )
        there.close()
    assert await problems(other) == []


async def test_an_import_goes_on_like_the_session_it_came_from(writer, path):
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    taken = await writer.store.import_session(path, tenant=TENANT)
    assert await writer.history(taken.id) == [token for turn in TURNS for token in turn]
    commit = await writer.turn(taken.id, [20, 21, 22])
    assert commit.snapshot.parent == taken.head
    assert await writer.problems() == []


async def test_within_one_tenant_nothing_is_stored_twice(writer, path, raw, prefix):
    session = await writer.session(*TURNS)
    before = sorted(raw.keys(f"{prefix}:kv:*") + raw.keys(f"{prefix}:state:*"))
    await writer.store.export_session(session.id, path)
    await writer.store.import_session(path, tenant=TENANT)
    assert sorted(raw.keys(f"{prefix}:kv:*") + raw.keys(f"{prefix}:state:*")) == before
    await writer.store.delete_session(session.id)
    assert all(raw.ttl(key) == -1 for key in before)
    assert await writer.problems() == []


async def test_an_empty_session_travels_too(writer, other, path):
    session = await writer.session()
    assert (await writer.store.export_session(session.id, path)).snapshots == 0
    taken = await other.import_session(path, tenant=TENANT)
    assert (taken.head, taken.body.fingerprint_id) == (None, FINGERPRINT.id)


async def test_what_came_before_a_snapshot_is_merged_into_it(writer, other, path):
    session = await writer.session(*TURNS)
    history = await writer.store.ancestors(session.head)
    exported = await writer.store.export_session(session.id, path, since=history[2].id)
    assert (exported.snapshots, exported.tokens) == (2, 14)
    taken = await other.import_session(path, tenant=TENANT)
    assert list(await other.tokens(taken.head)) == [token for turn in TURNS for token in turn]
    first, last = await other.ancestors(taken.head)
    assert (first.total_tokens, first.boundary, len(first.page_chain)) == (13, 12, 3)
    assert (last.total_tokens, last.boundary, last.page_chain) == (14, 12, [])
    assert await other.residency(taken.id) == "stored"
    assert await problems(other) == []


async def test_only_a_snapshot_of_the_history_can_be_the_first(writer, path):
    session, another = await writer.session(*TURNS), await writer.session([1])
    with pytest.raises(NotFound, match="in the history"):
        await writer.store.export_session(session.id, path, since=another.head)
    assert not path.exists()


async def test_a_history_in_two_state_formats_and_over_token_pairs_travels(
    writer, other, elsewhere, path, objects, prefix, monkeypatch
):
    session = await writer.session(*TURNS[:2])
    second = fingerprint_with(bigram=True, weights="w2")
    await writer.store.create_session(tenant=TENANT, fingerprint=second)
    before = await writer.store.tokens(session.head)
    draft = await writer.draft(session.id, range(30, 36))
    salt = (await writer.store.tenant(TENANT)).salt
    names = page_hashes(before + draft.new_tokens, PAGE, salt=salt, bigram=True)
    draft = replace(
        draft, fingerprint_id=second.id, page_hashes=tuple(names), boundary=len(names) * PAGE,
        boundary_hash=names[-1],
    )  # fmt: skip
    monkeypatch.setattr(
        Writer, "names", lambda self: [ObjectNames(self.prefix, second.id, r) for r in range(2)]
    )
    writer.put(draft)
    lease = await writer.lease(session.id)
    await writer.store.commit(draft, lease=lease, durability="memory")
    await writer.store.export_session(session.id, path)
    taken = await other.import_session(path, tenant="elsewhere")
    there = ObjectClient(elsewhere.url, timeout=5.0)
    assert await contents(other, taken.id, there, prefix) == await contents(
        writer.store, session.id, objects, prefix
    )
    there.close()
    assert await problems(other) == []


async def test_states_in_several_parts_travel_to_the_bit_in_little_memory(
    store, other, objects, elsewhere, path, prefix
):
    size = 2 * PART_BYTES + 1000
    large = fingerprint_with(
        state_payload_bytes=size, state_segments=(Segment("uint8", size),), tp_size=1
    )
    session = await store.create_session(tenant=TENANT, fingerprint=large)
    writer = Writer(store, objects, prefix)
    names = ObjectNames(prefix, large.id, 0)
    head, total = None, 24  # states of 8 MiB each
    salt = (await store.tenant(TENANT)).salt
    hashes = page_hashes(range(total * PAGE), PAGE, salt=salt, bigram=False)
    lease = await writer.lease(session.id)
    pattern = os.urandom(size)
    for number, page in enumerate(hashes):
        items = [(ObjectRef("kv", page), b"\1" * 96)]
        for part in range(3):
            piece = pattern[part * PART_BYTES : (part + 1) * PART_BYTES]
            items.append((ObjectRef("state", page, part), bytes([number]) + piece[1:]))
        Payloads(objects, names).write(
            [
                (ref, Frame(memoryview(bytearray(128)), memoryview(bytearray(payload))))
                for ref, payload in items
            ],
            ttl=600,
        )
        draft = SnapshotDraft(
            session_id=session.id, parent=head, ranks=1, fingerprint_id=large.id,
            new_tokens=array("I", range(number * PAGE, (number + 1) * PAGE)),
            total_tokens=(number + 1) * PAGE, boundary=(number + 1) * PAGE,
            boundary_hash=page, page_hashes=(page,),
        )  # fmt: skip
        head = (await store.commit(draft, lease=lease, durability="memory")).snapshot.id
    before = peak_memory(forget=True)
    exported = await store.export_session(session.id, path)
    taken = await other.import_session(path, tenant="elsewhere")
    grown = peak_memory() - before
    assert exported.file_bytes > total * size
    assert grown < exported.file_bytes / 2
    there = ObjectClient(elsewhere.url, timeout=5.0)
    assert await contents(other, taken.id, there, prefix) == await contents(
        store, session.id, objects, prefix
    )
    there.close()
    assert await problems(other) == []


async def test_an_export_and_its_name_are_on_the_disk_before_it_is_told_of(
    writer, path, monkeypatch
):
    session = await writer.session(*TURNS)
    synced, fsync = [], os.fsync

    def noted(file):
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    await writer.store.export_session(session.id, path)
    assert synced == [str(path), str(path), str(path.parent)]


async def test_any_reader_of_safetensors_can_open_an_export(writer, path):
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    with safe_open(path, framework="numpy") as file:
        assert list(file.get_tensor("tokens")) == [token for turn in TURNS for token in turn]
        pages = file.get_tensor("f0.kv.r1")
        chain = [page for s in await writer.store.ancestors(session.head) for page in s.page_chain]
        names = writer.names()[1]
        assert [bytes(page) for page in pages] == [
            frame_of(names, "kv", page)[HEADER_BYTES:] for page in chain
        ]
        assert file.metadata()["format"] == "torpor session"


async def test_an_export_says_nothing_about_how_the_tenants_pages_are_named(writer, path):
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    content = path.read_bytes()
    salt = (await writer.store.tenant(TENANT)).salt
    assert salt.encode() not in content
    for snapshot in await writer.store.ancestors(session.head):
        for page in snapshot.page_chain:
            assert bytes.fromhex(page) not in content
    assert path.stat().st_mode & 0o077 == 0  # for its owner alone


async def test_nothing_is_overwritten_and_another_tenants_session_not_exported(writer, path):
    session = await writer.session(*TURNS)
    path.write_bytes(b"mine")
    with pytest.raises(ExportFailed, match="exists already"):
        await writer.store.export_session(session.id, path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(ExportFailed, match="cannot be written"):
        await writer.store.export_session(session.id, path.parent / "none" / "x")
    with pytest.raises(ForeignTenant):
        await writer.store.export_session(session.id, path.with_suffix(".2"), tenant="another")
    assert not path.with_suffix(".2").exists()


async def test_what_the_store_does_not_have_whole_is_not_exported_and_leaves_no_file(
    writer, path, raw
):
    session = await writer.session(*TURNS)
    page = (await writer.store.ancestors(session.head))[0].page_chain[0]
    key = writer.names()[1].key(ObjectRef("kv", page))
    value = raw.get(key)
    raw.set(key, value[:-1] + bytes([value[-1] ^ 1]))
    with pytest.raises(CorruptObject, match="damaged in the store"):
        await writer.store.export_session(session.id, path)
    raw.delete(key)
    with pytest.raises(ObjectsMissing, match="rank 1"):
        await writer.store.export_session(session.id, path)
    assert not path.exists()


async def test_a_history_whose_pages_are_not_named_after_its_tokens_is_not_exported(writer, path):
    session = await writer.session()
    draft = await writer.draft(session.id, range(8))
    names = tuple(page[::-1] for page in draft.page_hashes)
    draft = replace(draft, page_hashes=names, boundary_hash=names[-1])
    writer.put(draft)
    assert objects_of(draft)
    lease = await writer.lease(session.id)
    await writer.store.commit(draft, lease=lease, durability="memory")
    with pytest.raises(CorruptObject, match="not named after its tokens"):
        await writer.store.export_session(session.id, path)
    assert not path.exists()


async def test_archived_sessions_are_exported_from_where_they_are(
    server, writer, prefix, path, tmp_path, other
):
    session = await writer.session(*TURNS)
    place = tmp_path / "archive"
    place.mkdir()
    async with await StateStore.connect(
        server.url, prefix=prefix, archive=place.as_uri()
    ) as archiving:
        await archiving.archive_session(session.id, spare=0)
        with pytest.raises(ObjectsMissing, match="open the store with its archive"):
            await writer.store.export_session(session.id, path)
        await archiving.export_session(session.id, path)
    taken = await other.import_session(path, tenant=TENANT)
    assert list(await other.tokens(taken.head)) == [token for turn in TURNS for token in turn]


async def test_long_imports_keep_what_they_stored_first(
    writer, other, elsewhere, path, monkeypatch
):
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    monkeypatch.setattr(imports, "_REFRESH", 0.0)
    taken = await other.import_session(path, tenant="t")
    assert taken.head is not None
    assert await problems(other) == []


async def test_a_failed_import_leaves_only_what_expires(writer, other, elsewhere, path, prefix):
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the last state of the last rank: all else has been stored by then
    path.write_bytes(content)
    with pytest.raises(InvalidExport, match="state 1 of rank 1 is damaged"):
        await other.import_session(path, tenant="t")
    assert await other.sessions("t") == []
    with redis.Redis.from_url(elsewhere.url) as raw:
        found = raw.keys(f"{prefix}:*")
        lasting = [key for key in found if raw.ttl(key) == -1]
    assert len(found) > 4
    places = (f"{prefix}:{{tenant:t}}:record", f"{prefix}:{{operators}}:tenants")
    assert {*lasting} == {one.encode() for one in places}


async def test_an_import_for_no_tenant_or_from_no_file_is_refused(writer, path):
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    with pytest.raises(InvalidTenant):
        await writer.store.import_session(path, tenant="../x")
    for wrong in (path.with_suffix(".none"), path.parent, Path("\0")):
        with pytest.raises(InvalidExport, match="Nothing was imported"):
            await writer.store.import_session(wrong, tenant=TENANT)
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    with pytest.raises(InvalidExport, match="no plain file"):
        await writer.store.import_session(pipe, tenant=TENANT)


@pytest.mark.parametrize("way", ["export", "import"])
async def test_who_is_cancelled_leaves_nothing_running(writer, path, monkeypatch, way):
    session = await writer.session(*TURNS)
    if way == "import":
        await writer.store.export_session(session.id, path)
        work = writer.store.import_session(path, tenant="t")
    else:
        work = writer.store.export_session(session.id, path)
    task = asyncio.ensure_future(work)
    loop, ended = asyncio.get_running_loop(), []

    def batches(group, names, stop):
        loop.call_soon_threadsafe(task.cancel)
        assert stop.wait(30)
        try:
            yield from rows.batches(group, names, stop)
        finally:
            ended.append(way)

    monkeypatch.setattr(export if way == "export" else imports, "batches", batches)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [way]
    assert path.exists() == (way == "import")
    assert await writer.store.sessions("t") == []


async def test_encrypted_objects_are_exported_only_with_the_key_and_the_file_says_so(
    writer, other, elsewhere, path, objects, prefix
):
    key = TenantKey(bytes(range(32)))
    form = StoredForm.of(FINGERPRINT, tenant_key=key)
    session = await writer.session()
    draft = await writer.draft(session.id, range(9))
    for names in writer.names():
        frames = []
        for ref in objects_of(draft):
            plain = frame_of(names, ref.kind, ref.page_hash)
            frames.append((ref, Frame(*map(memoryview, (bytearray(128), bytearray(plain[128:]))))))
        assert Payloads(objects, names, form=form).write(frames, ttl=300)
    lease = await writer.lease(session.id)
    await writer.store.commit(draft, lease=lease, durability="memory")
    with pytest.raises(VaultLocked):
        await writer.store.export_session(session.id, path)
    assert not path.exists()
    session = await writer.store.session(session.id)
    source = export.Source(
        session=session,
        history=await writer.store.ancestors(session.head),
        tokens=await writer.store.tokens(session.head),
        fingerprints={FINGERPRINT.id: FINGERPRINT},
        names_salt=(await writer.store.tenant(TENANT)).salt,
        form_of={FINGERPRINT.id: form},
        besides=Besides(),
    )
    place = rows.Place(objects, prefix, None)
    done = export.export(source, place, path, since=None, stop=threading.Event())
    assert done.decrypted
    with imports.Export(path) as opened:
        assert opened.manifest.tenant_encrypts
    taken = await other.import_session(path, tenant="elsewhere")
    there = ObjectClient(elsewhere.url, timeout=5.0)
    *_, payloads = await contents(other, taken.id, there, prefix)
    there.close()
    assert payloads == [
        frame_of(names, ref.kind, ref.page_hash)[HEADER_BYTES:]
        for names in writer.names()
        for ref in objects_of(draft)
    ]
