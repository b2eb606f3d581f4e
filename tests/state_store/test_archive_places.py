"""Every kind of archive keeps the same promises: a directory, and a bucket behind S3's protocol."""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer
from shelf import RANKS, Shelf, value_of
from writer import Writer

from state_store.archive import ArchiveReader, open_archive
from state_store.archive.collect import check_archive
from state_store.archive.names import Generation, object_name, parse_name
from state_store.errors import ArchiveRefused, ArchiveUnavailable, CorruptObject
from state_store.layout import ObjectNames, ObjectRef
from state_store.store import StateStore

NAMES = ObjectNames("t", "ab" * 16, 1)
REF = ObjectRef("kv", "cd" * 32, 3)
GENERATION = Generation("0123456789abcdef", 2, 1700000000, "fedcba9876543210")


@pytest.fixture(scope="module")
def s3():
    """Address of a server that speaks S3's protocol."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket_url(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    name = f"b{secrets.token_hex(6)}"
    assert httpx.put(f"{s3}/{name}").is_success
    return f"s3://{name}/some/where?endpoint={s3}&region=us-east-1"


@pytest.fixture(params=["directory", "bucket"])
def archive(request, tmp_path):
    if request.param == "bucket":
        return open_archive(request.getfixturevalue("bucket_url"))
    return open_archive(f"file://{tmp_path}/deep/archive")


def buffer(size: int) -> memoryview:
    return memoryview(bytearray(size))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 300_000])
def test_a_value_comes_back_over_buffers_cut_otherwise(archive, size):
    value = secrets.token_bytes(size)
    whole = memoryview(bytearray(value))
    archive.put("a/b/c.d", [whole[:100], whole[100:100], whole[100:]])
    pieces = [buffer(128), buffer(0), buffer(size)]
    assert archive.get_into("a/b/c.d", pieces) == size
    assert b"".join(pieces)[:size] == value
    one = buffer(size)
    assert archive.get_into("a/b/c.d", one) == size
    assert one == value


def test_a_value_that_is_too_large_for_its_buffers_is_skipped(archive):
    archive.put("a", memoryview(b"12345678"))
    small = buffer(7)
    assert archive.get_into("a", [small[:3], small[3:]]) == 8
    assert small == bytes(7)


def test_what_is_not_there_is_none_and_its_deletion_no_error(archive):
    assert archive.get_into("no/thing", buffer(8)) is None
    archive.put("there", memoryview(b"x"))
    archive.delete(["no/thing", "there", "nor/this"])
    assert archive.get_into("there", buffer(8)) is None
    archive.delete([])


def test_a_listing_shows_everything_below_a_folder_and_nothing_else(archive):
    for name in ("one/a/b", "one/a/c", "one/d", "one-more/e", "two/f"):
        archive.put(name, memoryview(name.encode()))
    assert {(f.name, f.size) for f in archive.list("one")} == {
        ("one/a/b", 7), ("one/a/c", 7), ("one/d", 5),
    }  # fmt: skip
    assert list(archive.list("three")) == []


def test_a_reader_reads_many_objects_and_says_which_are_gone(archive):
    reader = ArchiveReader(archive, NAMES)
    values = {ObjectRef("kv", f"{i:064x}"): secrets.token_bytes(1000 + i) for i in range(20)}
    for ref, value in values.items():
        archive.put(object_name(NAMES, ref, GENERATION), memoryview(value))
    gone = ObjectRef("state", "ef" * 32)
    items = [(ref, str(GENERATION), [buffer(128), buffer(2000)]) for ref in [*values, gone]]
    assert reader.read_all(items) == [*map(len, values.values()), None]
    for (_, _, pieces), value in zip(items, values.values(), strict=False):
        assert b"".join(pieces)[: len(value)] == value
    with pytest.raises(CorruptObject):
        reader.read_into(gone, b"../../etc/passwd", buffer(8))
    reader.close()


def test_a_name_says_what_it_is_the_name_of():
    name = object_name(NAMES, REF, GENERATION)
    assert name == (
        f"0123456789abcdef/kv/{'ab' * 16}/1/cd/{'cd' * 32}.3."
        "0123456789abcdef-2-1700000000-fedcba9876543210"
    )
    assert parse_name("t", name) == (NAMES, REF, GENERATION, False)
    assert parse_name("t", name + ".part") == (NAMES, REF, GENERATION, True)
    whole = ObjectRef("state", "cd" * 32)
    stored = parse_name("t", object_name(NAMES, whole, GENERATION))
    assert stored == (NAMES, whole, GENERATION, False)
    assert parse_name("t", name.replace("kv", "vk")) is None
    assert parse_name("t", "readme.txt") is None


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    archive = open_archive(f"file://{tmp_path}")

    def dies(file):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(ArchiveUnavailable, match="power cut"):
            archive.put("a", memoryview(b"12345678"))
    assert archive.get_into("a", buffer(8)) is None
    assert [file.name for file in archive.list("")] == ["a.part"]
    archive.put("a", memoryview(b"12345678"))  # repeated
    assert [file.name for file in archive.list("")] == ["a"]


def test_a_file_and_every_folder_to_it_are_synced_before_it_counts(tmp_path, monkeypatch):
    archive = open_archive(f"file://{tmp_path}/root")
    synced = []
    fsync = os.fsync

    def note(file):
        fsync(file)
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()).removeprefix(str(tmp_path)))

    monkeypatch.setattr(os, "fsync", note)
    archive.put("a/b/c", memoryview(b"x"))
    assert synced == ["/root", "/root/a", "/root/a/b/c.part", "/root/a/b"]


def test_archived_files_are_their_owners_alone(tmp_path):
    open_archive(f"file://{tmp_path}/root").put("a/b", memoryview(b"x"))
    assert (tmp_path / "root").stat().st_mode & 0o077 == 0
    assert (tmp_path / "root" / "a" / "b").stat().st_mode & 0o077 == 0


def test_a_directory_that_is_gone_is_not_an_empty_archive(tmp_path):
    archive = open_archive(f"file://{tmp_path}/root")
    (tmp_path / "root").rmdir()
    with pytest.raises(ArchiveUnavailable, match="mounted"):
        archive.get_into("a", buffer(8))
    with pytest.raises(ArchiveUnavailable, match="mounted"):
        list(archive.list("a"))
    with pytest.raises(ArchiveUnavailable, match="mounted"):
        archive.put("a/b", memoryview(b"x"))


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArchiveRefused, match="file"):
        open_archive(f"file://{tmp_path}/file/archive")


def test_a_bucket_that_is_gone_is_not_an_empty_archive(bucket_url):
    archive = open_archive(bucket_url.replace("s3://", "s3://not-"))
    with pytest.raises(ArchiveUnavailable):
        archive.check()
    with pytest.raises(ArchiveUnavailable, match="bucket"):
        archive.get_into("a", buffer(8))


def test_a_bucket_that_does_not_answer_is_unavailable(bucket_url):
    archive = open_archive("s3://bucket/path?endpoint=http://127.0.0.1:9&region=r", timeout=0.5)
    with pytest.raises(ArchiveUnavailable, match="does not answer"):
        archive.put("a", memoryview(b"x"))


def test_a_bucket_that_is_silent_is_waited_for_no_longer_than_was_said(bucket_url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        archive = open_archive(f"s3://b/p?endpoint={endpoint}&region=r", timeout=0.5)
        started = time.monotonic()
        with pytest.raises(ArchiveUnavailable, match="does not answer"):
            archive.get_into("a", buffer(8))
        assert 0.5 <= time.monotonic() - started < 20


async def test_sessions_move_out_to_a_bucket_and_back(server, tmp_path, bucket_url):
    shelf = Shelf(server.url, tmp_path, archive_url=bucket_url)
    snapshot = shelf.snapshot(pages=3)
    assert (await shelf.archivist.move_out([snapshot])).objects == 4
    assert len(list(shelf.archive.list(""))) == 4 * RANKS
    for target in shelf.targets(snapshot):
        assert not shelf.raw.exists(*target.objects)
        assert shelf.load(target) == [value_of(n, target.ref)[128:] for n in target.names]
    report = await check_archive(shelf.control, shelf.prefix, shelf.archive)
    assert (report.objects, report.problems) == (4, [])
    assert (await shelf.archivist.bring_back([snapshot])).objects == 4
    await shelf.settle()
    assert list(shelf.archive.list("")) == []
    await shelf.check(snapshot)
    await shelf.close()


@pytest.mark.parametrize(
    "url",
    ["", "memory://", "/var/archive", "file://host/path", "http://host/path", "s3:///path",
     "s3://bucket/path?endpiont=x&secret_access_key=hunter2"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_without_telling_its_secrets(url):
    with pytest.raises(ArchiveRefused) as refused:
        open_archive(url)
    assert "hunter2" not in str(refused.value)


async def test_a_store_moves_a_session_to_a_bucket_and_back(server, objects, prefix, bucket_url):
    async with await StateStore.connect(server.url, prefix=prefix, archive=bucket_url) as store:
        session = await Writer(store, objects, prefix).session(range(12))
        assert (await store.archive_session(session.id)).objects == 4
        assert await store.residency(session.id) == "archived"
        assert (await store.check_integrity()).problems == []
        assert (await store.bring_back(session.id)).objects == 4
        assert await store.residency(session.id) == "stored"
        assert (await store.check_integrity()).problems == []
