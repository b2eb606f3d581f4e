"""A snapshot from elsewhere names files of its workspace and contents that are kept, no others."""

import hashlib
import json

import pytest
from pydantic import ValidationError

from tools.errors import SnapshotMissing
from tools.workspaces import File, Folder, Link, Manifest

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def file(path: str, size: int = 0, sha256: str = EMPTY) -> dict[str, object]:
    return {"kind": "file", "path": path, "size": size, "sha256": sha256, "executable": False}


@pytest.mark.parametrize(
    "entries",
    [
        [file("x", sha256="//etc/hostname")],
        [file("x", sha256="../../../etc/hostname")],
        [file("x", sha256=EMPTY + "\n")],
        [file("x", sha256=EMPTY.upper())],
        [file("x", size=-1)],
        *([file(path)] for path in ("", ".", "..", "/x", "/workspace/x", "a\0b", "x/")),
        [{"kind": "folder", "path": "d"}, file("d/../../x")],
        [{"kind": "folder", "path": "d"}, file("d//x")],
        [file("x"), file("x")],
        [file("y"), file("x")],
        [file("x"), file("x/y")],
        [file("d/x")],
        [{"kind": "link", "path": "d", "target": "/etc"}, file("d/x")],
        [{"kind": "link", "path": "d", "target": ""}],
        [{"kind": "link", "path": "d", "target": "a\0b"}],
    ],
)
def test_a_manifest_that_leads_elsewhere_or_is_no_tree_is_refused(entries):
    with pytest.raises(ValidationError):
        Manifest.model_validate_json(json.dumps({"entries": entries}))
    with pytest.raises(ValidationError):
        Manifest.model_validate({"entries": entries})


def test_a_manifest_may_name_every_tree():
    entries = (
        Folder(path="d"),
        File(path="d-e", size=0, sha256=EMPTY, executable=False),
        File(path="d/... x\n", size=0, sha256=EMPTY, executable=True),
        Link(path="link", target="/etc/\nhostname"),
    )
    manifest = Manifest(entries=entries)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_no_file_of_the_host_is_read_as_a_content(workspaces, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    entry = File.model_construct(path="x", size=11, sha256=f"/{secret}", executable=False)
    unchecked = Manifest.model_construct(entries=(entry,))
    workspaces.create("one")
    for use in (
        lambda: workspaces.lacking(unchecked),
        lambda: workspaces.admit(unchecked),
        lambda: workspaces.read(entry.sha256, 0, 11),
    ):
        with pytest.raises(SnapshotMissing, match="not the hash of a content"):
            use()
    text = unchecked.model_dump_json()
    name = hashlib.sha256(text.encode()).hexdigest()
    (workspaces.root / "snapshots" / f"{name}.json").write_text(text)
    for use in (lambda: workspaces.fork(name, "two"), workspaces.collect):
        with pytest.raises(SnapshotMissing, match="isn't used"):
            use()
    assert workspaces.names() == ["one"]
    assert workspaces.keep_only(set()) == 0


def test_a_content_that_was_changed_is_put_in_no_workspace(workspaces):
    path = workspaces.create("one")
    (path / "a").write_text("x")
    kept = workspaces.snapshot("one")
    (stored,) = (one for one in (workspaces.root / "contents").rglob("*") if one.is_file())
    stored.chmod(0o600)
    stored.write_text("y")
    with pytest.raises(SnapshotMissing, match="was changed, and is not used"):
        workspaces.fork(kept.id, "two")
    assert workspaces.names() == ["one"]
    stored.unlink()
    assert workspaces.lacking(kept) == list(kept.entries)


def test_a_snapshot_that_gives_another_size_than_a_content_has_is_not_admitted(workspaces):
    """Sizes are what limits are held against."""
    (workspaces.create("one") / "a").write_bytes(b"x" * 1000)
    (entry,) = workspaces.snapshot("one").entries
    smaller = Manifest(entries=(entry, entry.model_copy(update={"path": "b", "size": 0})))
    with pytest.raises(SnapshotMissing, match=r"1 contents .* such as that of b"):
        workspaces.admit(smaller)
