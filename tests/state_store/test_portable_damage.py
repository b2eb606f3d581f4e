"""Files that are damaged or made to do harm are refused by our own error, and do nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import TENANT, Writer

from state_store.errors import InvalidExport
from state_store.objects import ObjectClient
from state_store.portable.imports import Export
from state_store.store import StateStore

TURNS = ([1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11, 12, 13], [2**32 - 1])


@pytest.fixture
async def exported(writer, tmp_path) -> Path:
    path = tmp_path / "session.torpor"
    session = await writer.session(*TURNS)
    await writer.store.export_session(session.id, path)
    return path


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def joined(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_manifest(content: bytes, change) -> bytes:
    """A file whose manifest is changed, and all else adapted to it."""
    header, data = split(content)
    begin, end = header["manifest"]["data_offsets"]
    manifest = msgpack.unpackb(data[begin:end])
    packed = change(manifest)
    packed = packed if isinstance(packed, bytes) else msgpack.packb(manifest)
    grown = len(packed) - (end - begin)
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end and name != "manifest":
            entry["data_offsets"] = [at + grown for at in entry["data_offsets"]]
    header["manifest"] |= {"shape": [len(packed)], "data_offsets": [begin, begin + len(packed)]}
    header["__metadata__"]["manifest_sha256"] = hashlib.sha256(packed).hexdigest()
    return joined(header, data[:begin] + packed + data[end:])


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def test_the_tests_own_way_of_making_files_makes_right_ones(exported):
    content = exported.read_bytes()
    for made in (joined(*split(content)), with_manifest(content, lambda manifest: None)):
        exported.write_bytes(made)
        Export(exported).close()


HEADERS = {
    "no length": lambda h, d: b"",
    "a length beyond the file": lambda h, d: (1 << 62).to_bytes(8, "little") + b"{}",
    "a length beyond any header": lambda h, d: joined(json.dumps(h).encode().ljust(2 << 20), d),
    "no JSON": lambda h, d: joined(b"{" * 100, d),
    "JSON that is deep": lambda h, d: joined(b"[" * 500_000, d),
    "a number that is long": lambda h, d: joined(b'{"a":' + b"9" * 10_000 + b"}", d),
    "no text": lambda h, d: joined(b"\xff\xfe{}", d),
    "a list": lambda h, d: joined([], d),
    "no metadata": lambda h, d: joined({k: v for k, v in h.items() if k != "__metadata__"}, d),
    "another format": lambda h, d: joined(h | {"__metadata__": {"format": "pt"}}, d),
    "a name twice": lambda h, d: joined(json.dumps(h)[:-1].encode() + b',"tokens":{}}', d),
    "less data": lambda h, d: joined(h, d[:-1]),
    "more data": lambda h, d: joined(h, d + b"x"),
    "a tensor more": lambda h, d: joined(
        h | {"x": {"dtype": "U8", "shape": [0], "data_offsets": [len(d), len(d)]}}, d
    ),
    "a tensor less": lambda h, d: joined({k: v for k, v in h.items() if k != "f0.names"}, d),
}


def entry_changes() -> dict[str, Any]:
    def changed(name, **fields):
        def change(header, data):
            header[name] |= fields
            return joined(header, data)

        return change

    return {
        "a shape that is huge": changed("tokens", shape=[1 << 62]),
        "a shape beyond all numbers": changed("tokens", shape=[1 << 70]),
        "a shape below zero": changed("tokens", shape=[-14]),
        "a shape of truths": changed("tokens", shape=[True]),
        "places below zero": changed("tokens", data_offsets=[-56, 0]),
        "places that overlap": changed("f0.names", data_offsets=[0, 96]),
        "another dtype": changed("tokens", dtype="F32"),
        "a place for a name": changed("tokens", path="../../etc/passwd"),
    }


@pytest.mark.parametrize("what", [*HEADERS, *entry_changes()])
async def test_a_header_that_cannot_be_is_refused(writer, exported, what):
    header, data = split(exported.read_bytes())
    exported.write_bytes((HEADERS | entry_changes())[what](header, data))
    with pytest.raises(InvalidExport, match=r"Nothing was imported\.$"):
        await writer.store.import_session(exported, tenant="t")
    assert await writer.store.sessions("t") == []


def setting(*path, to):
    def change(manifest):
        inner = manifest
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


MANIFESTS = {
    "another version": setting("version", to=2),
    "no version": lambda m: m.pop("version") and None,
    "a field more": setting("extra", to=1),
    "no msgpack": lambda m: b"\xc1",
    "msgpack that is deep": lambda m: nested(1 << 20),
    "what is kept that is deep": setting("meta", "x", to=[[[[]]]] and msgpack.unpackb(nested(200))),
    "keys that are no text": setting("meta", to={1: 2}),
    "a time stamp": setting("meta", "x", to=msgpack.Timestamp(1)),
    "an extension": setting("meta", "x", to=msgpack.ExtType(5, b"x")),
    "a list that says it is long": lambda m: b"\xdd\xff\xff\xff\xff",
    "no snapshots": setting("snapshots", to=[]),
    "fewer tokens": setting("snapshots", 0, "tokens", to=4),
    "tokens below zero": setting("snapshots", 0, "tokens", to=-1),
    "very many tokens": setting("snapshots", 0, "tokens", to=1 << 62),
    "a boundary within a page": setting("snapshots", 0, "boundary", to=3),
    "a boundary beyond the tokens": setting("snapshots", 0, "boundary", to=1 << 20),
    "a boundary that goes back": setting("snapshots", 3, "boundary", to=4),
    "a checkpoint within a page": setting("snapshots", 2, "checkpoints", to=[9]),
    "a checkpoint at the boundary": setting("snapshots", 2, "checkpoints", to=[12]),
    "a checkpoint before the parent's boundary": setting("snapshots", 2, "checkpoints", to=[4]),
    "a checkpoint that has no state": setting("snapshots", 2, "checkpoints", to=[8]),
    "a format that is not there": setting("snapshots", 0, "format", to=7),
    "a format below zero": setting("snapshots", 0, "format", to=-1),
    "no formats": setting("formats", to=[]),
    "another format's id": setting("formats", 0, "id", to="0" * 32),
    "pages of no tokens": setting("formats", 0, "fingerprint", "page_size", to=0),
    "pages of fewer than no tokens": setting("formats", 0, "fingerprint", "page_size", to=-4),
    "very many ranks": setting("formats", 0, "fingerprint", "tp_size", to=1 << 40),
    "another model": setting("formats", 0, "fingerprint", "weights", to="other"),
    "another salt": setting("salt", to="0" * 64),
    "no salt": setting("salt", to=""),
    "an economy class that is not known": setting("economy", to="x"),
    "labels that are numbers": setting("labels", "x", to=1),
    "no digests": setting("digests", to={}),
    "a digest that is none": setting("digests", "tokens", to=b"x"),
}


@pytest.mark.parametrize("what", MANIFESTS)
async def test_a_manifest_that_cannot_be_is_refused(writer, exported, what):
    exported.write_bytes(with_manifest(exported.read_bytes(), MANIFESTS[what]))
    with pytest.raises(InvalidExport, match=r"Nothing was imported\.$"):
        await writer.store.import_session(exported, tenant="t")
    assert await writer.store.sessions("t") == []


@pytest.mark.parametrize(
    "name", ["tokens", "f0.names", "f0.kv.r0", "f0.kv.r1.sha256", "f0.state.r1"]
)
async def test_a_flipped_bit_in_any_tensor_is_found(writer, exported, name):
    header, data = split(exported.read_bytes())
    content = bytearray(data)
    content[header[name]["data_offsets"][1] - 1] ^= 0x80
    exported.write_bytes(joined(header, bytes(content)))
    with pytest.raises(InvalidExport, match="damaged"):
        await writer.store.import_session(exported, tenant="t")
    assert await writer.store.sessions("t") == []


async def test_tokens_that_are_others_but_have_the_right_sum_do_not_fit_the_names(writer, exported):
    """Who changes the tokens has to change the names: no payload gets under another's name."""
    header, data = split(exported.read_bytes())
    begin, end = header["tokens"]["data_offsets"]
    tokens = b"\x63" + data[begin + 1 : end]
    content = joined(header, data[:begin] + tokens + data[end:])
    digest = hashlib.sha256(tokens).digest()
    exported.write_bytes(with_manifest(content, setting("digests", "tokens", to=digest)))
    with pytest.raises(InvalidExport, match="not named after its tokens"):
        await writer.store.import_session(exported, tenant="t")


@pytest.fixture(scope="module")
def made(server, tmp_path_factory) -> tuple[str, Path, bytes]:
    """A prefix, a file, and what it should be."""
    path, prefix = tmp_path_factory.mktemp("made") / "session.torpor", secrets.token_hex(4)

    async def make():
        client = ObjectClient(server.url, timeout=5.0)
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            session = await Writer(store, client, prefix).session(*TURNS)
            await store.export_session(session.id, path)
        client.close()

    asyncio.run(make())
    return prefix, path, path.read_bytes()


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(data=st.data())
def test_a_file_that_was_changed_anyhow_is_refused_or_was_not_changed_in_meaning(
    server, made, data
):
    prefix, path, original = made
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        mutate(content, data)
    path.write_bytes(content)

    async def attempt() -> list[int] | None:
        async with await StateStore.connect(server.url, prefix=prefix) as store:
            before = len(await store.sessions(TENANT))
            try:
                session = await store.import_session(path, tenant=TENANT)
            except InvalidExport:
                assert len(await store.sessions(TENANT)) == before
                return None
            tokens = list(await store.tokens(session.head))
            await store.delete_session(session.id)
            return tokens

    tokens = asyncio.run(attempt())
    if tokens is not None:
        assert tokens == [token for turn in TURNS for token in turn]
        assert split(bytes(content)) == split(original)  # but for spaces in its header


def mutate(content: bytearray, data) -> None:
    at = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(content))), "at")
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "copy"]), "kind")
    if kind == "flip" and at < len(content):
        content[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=40), "bytes")
    elif kind == "drop":
        del content[at : at + data.draw(st.integers(1, 5000), "size")]
    else:
        size = data.draw(st.integers(1, 200), "size")
        begin = data.draw(st.integers(0, len(content)), "from")
        content[at : at + size] = content[begin : begin + size]
