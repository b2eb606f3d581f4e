"""`torpor store export` and `import` move a session between stores, and say what they did."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from array import array

import pytest

from agent_runtime.cli import main
from state_store.codec import Frame
from state_store.embedded import EmbeddedServer
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint
from state_store.identity import page_hashes
from state_store.layout import ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.payloads import Payloads
from state_store.records import SnapshotDraft
from state_store.store import StateStore

TOKENS = [1, 2, 3, 4, 5]
FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="float32", conv_dtype="float32",
    ssm_dtype="float32", page_size=4, kv_payload_bytes=64, state_payload_bytes=128,
    kv_segments=(Segment("float32", 64),), state_segments=(Segment("float32", 128),),
    tp_size=1, draft="none", bigram=False, engine="e",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("files") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def session_id(server):
    return asyncio.run(_make_session(server.url))


def bytes_of(size: int) -> bytearray:
    return bytearray(range(size))


async def _make_session(url: str) -> str:
    """Of one snapshot, with one page and one state."""
    async with await StateStore.connect(url) as store:
        session = await store.create_session(tenant="default", fingerprint=FINGERPRINT)
        salt = (await store.tenant("default")).salt
        (page,) = page_hashes(TOKENS, 4, salt=salt, bigram=False)
        client = ObjectClient(url, timeout=10.0)
        frames = [
            (ObjectRef(kind, page), Frame(memoryview(bytearray(128)), memoryview(bytes_of(size))))
            for kind, size in (("kv", 64), ("state", 128))
        ]
        Payloads(client, ObjectNames("torpor", FINGERPRINT.id, 0)).write(frames, ttl=60)
        client.close()
        draft = SnapshotDraft(
            session_id=session.id, parent=None, new_tokens=array("I", TOKENS), total_tokens=5,
            boundary=4, boundary_hash=page, page_hashes=(page,), fingerprint_id=FINGERPRINT.id,
            ranks=1,
        )  # fmt: skip
        lease = await store.acquire(session.id, ttl=30, owner="test")
        await store.commit(draft, lease=lease, durability="memory")
        await store.release(lease)
        return session.id


async def tokens_of(url: str, session_id: str, tenant: str) -> list[int]:
    async with await StateStore.connect(url) as store:
        session = await store.session(session_id, tenant=tenant)
        assert (await store.check_integrity()).problems == []
        return list(await store.tokens(session.head))


def test_a_session_moves_to_another_store(server, session_id, tmp_path, capsys):
    file = tmp_path / "session.torpor"
    assert main(["store", "export", session_id, str(file), "--redis", server.url]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{file}: 1 snapshots, 5 tokens, {file.stat().st_size} bytes")
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["manifest_sha256"] == re.search("manifest (.*)", printed)[1]
    data = tmp_path / "data"
    arguments = ["store", "import", str(file), "--tenant", "b", "--data", str(data)]
    assert main(arguments) == 0
    taken = capsys.readouterr().out.strip()
    with EmbeddedServer(data / "store") as other:
        assert asyncio.run(tokens_of(other.url, taken, "b")) == TOKENS


def test_what_goes_wrong_is_one_line(server, session_id, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    for arguments, word in (
        (["export", session_id, str(file)], "exists already"),
        (["export", "ses-0123456789abcdef-0123456789abcdef", str(tmp_path / "x")], "no session"),
        (["export", session_id, str(tmp_path / "x"), "--since", "snp-none"], "no snapshot"),
        (["import", str(file)], "cannot be imported"),
        (["import", str(tmp_path / "none")], "cannot be opened"),
    ):
        assert main(["store", *arguments, "--redis", server.url]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("torpor: ")
        assert word in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_format_is_as_its_page_says(server, session_id, tmp_path):
    """Read by nothing but the page: names, order, shapes, sums."""
    file = tmp_path / "session.torpor"
    assert main(["store", "export", session_id, str(file), "--redis", server.url]) == 0
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 4096 == 0
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__")
    assert (metadata["format"], metadata["version"]) == ("torpor session", "1")
    assert list(header) == [
        "manifest", "tokens", "f0.names", "f0.kv.r0.sha256", "f0.state.r0.sha256", "f0.kv.r0",
        "f0.state.r0",
    ]  # fmt: skip
    assert [header[name]["shape"] for name in list(header)[1:]] == [
        [5], [1, 32], [1, 32], [1, 32], [1, 64], [1, 128],
    ]  # fmt: skip
    tensors = {
        name: content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        for name, entry in header.items()
    }
    assert hashlib.sha256(tensors["manifest"]).hexdigest() == metadata["manifest_sha256"]
    assert array("I", tensors["tokens"]).tolist() == TOKENS
    for kind in ("kv", "state"):
        payload = tensors[f"f0.{kind}.r0"]
        assert tensors[f"f0.{kind}.r0.sha256"] == hashlib.sha256(payload).digest()
