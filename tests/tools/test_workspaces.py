"""A workspace goes with its session: kept, forked, put back, and never one in place of another."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.errors import FolderMissing, SnapshotMissing, ToolFailed, WorkspaceExists, WorkspaceFull
from tools.workspaces import File, Workspaces
from tools.workspaces.contents import clone
from tools.workspaces.owner import owner


def fill(path: Path) -> None:
    (path / "notes.txt").write_text("page one")
    (path / "empty").write_bytes(b"")
    (path / "src" / "deep").mkdir(parents=True)
    (path / "src" / "run.sh").write_text("#!/bin/sh\n")
    (path / "src" / "run.sh").chmod(0o700)
    (path / "src" / "deep" / "data").write_bytes(bytes(range(256)) * 1000)
    (path / "hollow").mkdir()
    (path / "link").symlink_to("notes.txt")
    (path / "dangling").symlink_to("/etc/shadow")


def seen(path: Path) -> dict[str, object]:
    """Everything below `path` that a snapshot should keep."""
    found: dict[str, object] = {}
    for entry in sorted(path.rglob("*")):
        name = str(entry.relative_to(path))
        if entry.is_symlink():
            found[name] = ("link", str(entry.readlink()))
        elif entry.is_dir():
            found[name] = "folder"
        else:
            found[name] = (entry.read_bytes(), bool(entry.stat().st_mode & stat.S_IXUSR))
    return found


def test_a_fork_has_the_files_of_the_snapshot_and_its_own_from_then_on(workspaces):
    first = workspaces.create("first")
    fill(first)
    kept = workspaces.snapshot("first")
    before = seen(first)
    (first / "notes.txt").write_text("page two")
    second = workspaces.fork(kept.id, "second")
    assert seen(second) == before
    (second / "notes.txt").write_text("page three")
    (second / "src" / "run.sh").unlink()
    assert (first / "notes.txt").read_text() == "page two"
    assert seen(workspaces.fork(kept.id, "third")) == before


def test_the_same_files_make_the_same_snapshot_wherever_they_are(workspaces, tmp_path):
    ids = set()
    for place in (workspaces, Workspaces(tmp_path / "another")):
        path = place.create("one")
        fill(path)
        os.utime(path / "notes.txt", (1, 1))
        kept = place.snapshot("one")
        ids.add(kept.id)
    assert len(ids) == 1
    assert kept.bytes == 8 + 10 + 256_000
    assert [entry.path for entry in kept.entries] == sorted(entry.path for entry in kept.entries)
    fork = place.fork(kept.id, "two")
    assert place.snapshot("two").id == kept.id
    (fork / "src" / "run.sh").chmod(0o600)
    assert place.snapshot("two").id != kept.id


def test_snapshots_share_what_they_have_in_common(workspaces):
    path = workspaces.create("one")
    (path / "large").write_bytes(b"x" * 100_000)
    for number in range(5):
        (path / "small").write_text(str(number))
        workspaces.snapshot("one")
    stored = [file for file in (workspaces.root / "contents").rglob("*") if file.is_file()]
    assert len(stored) == 6
    assert sum(file.stat().st_size for file in stored) == 100_005


def test_no_file_is_a_hard_link_to_another(workspaces):
    fill(workspaces.create("one"))
    fork = workspaces.fork(workspaces.snapshot("one").id, "two")
    files = [path for path in fork.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) == 4
    assert {path.stat().st_nlink for path in files} == {1}


def test_forgetting_the_last_snapshot_that_names_a_file_frees_it(workspaces):
    path = workspaces.create("one")
    (path / "both").write_bytes(b"b" * 1000)
    (path / "early").write_bytes(b"e" * 500)
    early = workspaces.snapshot("one")
    (path / "early").unlink()
    late = workspaces.snapshot("one")
    assert workspaces.collect() == 0
    workspaces.forget(early.id)
    assert workspaces.collect() == 500
    with pytest.raises(SnapshotMissing, match="there is no workspace snapshot"):
        workspaces.fork(early.id, "two")
    assert workspaces.names() == ["one"]
    assert seen(workspaces.fork(late.id, "two")) == {"both": (b"b" * 1000, False)}


def test_a_snapshot_does_not_change_with_the_file_it_was_made_of(workspaces):
    """As a shared file would, if it were written to in place."""
    path = workspaces.create("one")
    (path / "log").write_bytes(b"before")
    kept = workspaces.snapshot("one")
    with (path / "log").open("r+b") as file:
        file.write(b"after!")
    assert (workspaces.fork(kept.id, "two") / "log").read_bytes() == b"before"


async def test_what_a_command_does_is_kept_and_undone_with_the_snapshot(box, workspaces):
    await box.shell("mkdir d; echo one > d/f; chmod +x d/f")
    kept = workspaces.snapshot("one")
    await box.shell("rm -r d; echo junk > junk")
    workspaces.delete("one")
    path = workspaces.fork(kept.id, "one")
    assert path == box.workspace
    ran = await box.shell("cat d/f; test -x d/f && echo two >> d/f; ls; id -un; stat -c %U d/f d")
    assert ran.output == "one\nd\nuser\nuser\nuser\n"
    assert (path / "d" / "f").stat().st_uid == owner()


def test_a_workspace_over_its_limits_is_not_kept(tmp_path):
    workspaces = Workspaces(tmp_path, most_bytes=10_000, most_files=3)
    path = workspaces.create("one")
    (path / "a").write_bytes(b"x" * 10_001)
    with pytest.raises(WorkspaceFull, match="the limits are 10000 and 3"):
        workspaces.snapshot("one")
    (path / "a").write_bytes(b"")
    for name in "bcd":
        (path / name).write_bytes(b"")
    with pytest.raises(WorkspaceFull):
        workspaces.snapshot("one")
    (path / "d").unlink()
    assert len(workspaces.snapshot("one").entries) == 3


def test_pipes_and_sockets_are_left_out_and_do_not_stop_a_snapshot(workspaces):
    path = workspaces.create("one")
    os.mkfifo(path / "pipe")
    (path / "file").write_text("x")
    assert [entry.path for entry in workspaces.snapshot("one").entries] == ["file"]


def test_a_name_that_is_not_utf8_is_refused_by_name(workspaces):
    path = workspaces.create("one")
    (path / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(ToolFailed, match="not UTF-8; rename"):
        workspaces.snapshot("one")


def test_folders_nested_very_deep_are_refused_and_can_be_deleted(workspaces):
    path = workspaces.create("one")
    script = "import os\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')"
    subprocess.run([sys.executable, "-c", script], cwd=path, check=True)
    with pytest.raises(ToolFailed, match="nested more than 64 deep"):
        workspaces.snapshot("one")
    workspaces.delete("one")
    assert workspaces.names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "../one", "a/b", ".hidden", "a\0b", "x" * 129])
def test_a_name_that_leads_elsewhere_is_refused(workspaces, name):
    with pytest.raises(ValueError, match="can't name a workspace"):
        workspaces.create(name)


def test_names_are_taken_once_and_missing_ones_are_told(workspaces):
    workspaces.create("one")
    kept = workspaces.snapshot("one")
    for again in (lambda: workspaces.create("one"), lambda: workspaces.fork(kept.id, "one")):
        with pytest.raises(WorkspaceExists, match="named one already"):
            again()
    with pytest.raises(FolderMissing, match="no workspace named two"):
        workspaces.snapshot("two")
    for wrong in ("", "../snapshots/x", "0" * 64):
        with pytest.raises(SnapshotMissing):
            workspaces.fork(wrong, "two")
    workspaces.delete("two")
    assert list((workspaces.root / "making").iterdir()) == []


def test_a_manifest_that_was_changed_is_not_used(workspaces):
    path = workspaces.create("one")
    (path / "a").write_text("x")
    kept = workspaces.snapshot("one")
    place = workspaces.root / "snapshots" / f"{kept.id}.json"
    place.write_text(place.read_text().replace('"a"', '"../../a"'))
    with pytest.raises(SnapshotMissing, match="was changed"):
        workspaces.fork(kept.id, "two")


def test_a_fork_that_misses_a_content_leaves_no_workspace(workspaces):
    path = workspaces.create("one")
    (path / "a").write_text("x")
    kept = workspaces.snapshot("one")
    (entry,) = kept.entries
    assert isinstance(entry, File)
    workspaces._contents().drop(entry.sha256)
    with pytest.raises(SnapshotMissing, match="was it forgotten"):
        workspaces.fork(kept.id, "two")
    assert workspaces.names() == ["one"]
    assert list((workspaces.root / "making").iterdir()) == []


FORKS = """
import sys
from pathlib import Path
from tools.workspaces import Workspaces

workspaces = Workspaces(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(100_000):
    workspaces.fork(sys.argv[2], "victim")
    workspaces.delete("victim")
    (workspaces.root / "live" / "one" / "counter").write_text(str(number))
    workspaces.snapshot("one")
"""


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.03, 0.07])
def test_a_process_that_is_killed_leaves_whole_workspaces_and_snapshots_only(workspaces, moment):
    path = workspaces.create("one")
    for number in range(30):
        (path / str(number)).write_text(str(number))
    kept = workspaces.snapshot("one")
    command = [sys.executable, "-c", FORKS, str(workspaces.root), kept.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(moment)
        child.send_signal(signal.SIGKILL)
    # Being deleted is the one moment at which a workspace is not whole; then it has been given up.
    for snapshot in (workspaces.root / "snapshots").glob("*.json"):
        fork = workspaces.fork(snapshot.stem, f"check-{snapshot.stem[:8]}")
        assert len(seen(fork)) in (30, 31)
        workspaces.forget(snapshot.stem)
    workspaces.collect()
    assert list((workspaces.root / "making").iterdir()) == []
    assert [file for file in (workspaces.root / "contents").rglob("*") if file.is_file()] == []


def test_a_fork_that_is_killed_before_it_has_its_name_leaves_the_name_free(workspaces, monkeypatch):
    (workspaces.create("one") / "a").write_text("x")
    kept = workspaces.snapshot("one").id
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", lambda *_: os._exit(9))
        try:
            workspaces.fork(kept, "two")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert workspaces.names() == ["one"]
    assert seen(workspaces.fork(kept, "two")) == {"a": (b"x", False)}


def test_an_empty_workspace_keeps_its_name_too(workspaces):
    kept = workspaces.snapshot(workspaces.create("one").name).id
    with pytest.raises(WorkspaceExists):
        workspaces.fork(kept, "one")


CLOSED = """
import os, sys, tempfile
from pathlib import Path
from tools.errors import ToolFailed
from tools.workspaces import Workspaces, workspaces as module
import encodings.idna, pydantic.main
if os.geteuid() == 0:  # whom no mode keeps out
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with tempfile.TemporaryDirectory() as folder:
    w = Workspaces(Path(folder) / "w")
    def closed(path):
        (path / "d" / "e").mkdir(parents=True)
        (path / "d" / "e" / "file").write_text("x" * 100)
        (path / "d" / "e").chmod(0)
        (path / "d").chmod(0)
    kept = w.snapshot(w.create("one").name).id
    closed(w.path("one"))
    w.put_back(kept, "one")
    assert list(w.path("one").iterdir()) == []
    closed(w.path("one"))
    w.delete("one")
    assert w.names() == []
    # One that cannot be deleted stops neither the others nor the rest.
    (w.root / "making" / "other").mkdir()
    closed(w.root / "making" / "other")
    (w.root / "making" / "held").mkdir()
    real = module._remove
    def remove(path):
        if path.name == "held":
            raise ToolFailed("held")
        real(path)
    module._remove = remove
    w.forget(kept)
    w.keep_only([])
    assert [one.name for one in (w.root / "making").iterdir()] == ["held"]
"""


def test_folders_that_a_command_closed_are_deleted_and_stop_nothing():
    subprocess.run([sys.executable, "-c", CLOSED], check=True, cwd=Path(__file__).parents[2])


TREES = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
    st.one_of(st.binary(max_size=50), st.booleans()),
    max_size=8,
)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(tree=TREES)
def test_any_tree_comes_back_as_it_was(tmp_path_factory, tree):
    workspaces = Workspaces(tmp_path_factory.mktemp("any"))
    path = workspaces.create("one")
    for name, content in tree.items():
        target = path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif content:
                target.mkdir()
            else:
                target.symlink_to("a")
        except OSError:  # the name of a file is that of a folder too
            continue
    assert seen(workspaces.fork(workspaces.snapshot("one").id, "two")) == seen(path)


@pytest.fixture
def xfs(tmp_path):
    """A file system that can share blocks between files."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("only root can mount one, with a loop device")
    image, place = tmp_path / "image", tmp_path / "mounted"
    image.touch()
    os.truncate(image, 400 * 2**20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_files_are_shared_until_one_changes_where_the_file_system_can(xfs):
    workspaces = Workspaces(xfs / "workspaces")
    path = workspaces.create("one")
    (path / "large").write_bytes(os.urandom(40 * 2**20))
    os.sync()
    before = os.statvfs(xfs).f_bfree
    kept = workspaces.snapshot("one")
    forks = [workspaces.fork(kept.id, f"fork-{number}") for number in range(3)]
    os.sync()
    used = (before - os.statvfs(xfs).f_bfree) * os.statvfs(xfs).f_frsize
    assert used < 4 * 2**20
    with (forks[0] / "large").open("r+b") as file:
        file.write(b"changed")
    assert (forks[1] / "large").read_bytes() == (path / "large").read_bytes()
    assert (forks[0] / "large").read_bytes()[:7] == b"changed"


def test_files_are_copied_where_the_file_system_can_not_share(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 3_000_000)
    with (tmp_path / "source").open("rb") as source, Path("/dev/shm/torpor-clone").open("wb") as to:
        assert not clone(source.fileno(), to.fileno())
    copied = Path("/dev/shm/torpor-clone")
    try:
        assert copied.read_bytes() == b"x" * 3_000_000
    finally:
        copied.unlink()


def test_a_workspace_is_put_back_to_a_snapshot(workspaces):
    path = workspaces.create("first")
    fill(path)
    kept, before = workspaces.snapshot("first"), seen(path)
    (path / "notes.txt").unlink()
    (path / "src" / "new").write_text("x")
    assert seen(workspaces.put_back(kept.id, "first")) == before
    workspaces.delete("first")
    assert seen(workspaces.put_back(kept.id, "first")) == before
    with pytest.raises(SnapshotMissing):
        workspaces.put_back("ab" * 32, "first")
    assert seen(path) == before
    assert not [*(workspaces.root / "making").iterdir()]


def test_a_workspace_that_cannot_be_put_back_is_as_it_was(workspaces, monkeypatch):
    path = workspaces.create("first")
    kept = workspaces.snapshot("first")
    (path / "precious").write_text("in no snapshot")
    rename, moved = Path.rename, []

    def refuse_the_second(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise OSError(errno.ENOSPC, "no space left")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse_the_second)
    with pytest.raises(OSError, match="no space"):
        workspaces.put_back(kept.id, "first")
    assert (path / "precious").read_text() == "in no snapshot"
    assert not [*(workspaces.root / "making").iterdir()]


def test_there_is_no_workspace_where_one_cannot_be_finished(workspaces, monkeypatch):
    workspaces.create("first")
    kept = workspaces.snapshot("first")

    def refuse(source, target):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as full:
        full.setattr(Path, "rename", refuse)
        for make in (
            lambda: workspaces.create("second"),
            lambda: workspaces.fork(kept.id, "second"),
            lambda: workspaces.put_back(kept.id, "second"),
        ):
            with pytest.raises(OSError, match="no space"):
                make()
            assert workspaces.names() == ["first"]
    workspaces.create("second")


def test_a_workspace_is_put_back_or_as_it_was_however_few_files_may_be_open(workspaces, caplog):
    path = workspaces.create("first")
    kept = workspaces.snapshot("first")
    (path / "precious").write_text("in no snapshot")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = 0
    for most in range(3, soft):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        try:
            workspaces.put_back(kept.id, "first")
        except OSError:
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert seen(path) == {"precious": (b"in no snapshot", False)}
    assert failed
    assert seen(path) == {}
    assert all(one.name in caplog.text for one in (workspaces.root / "making").glob("*.old"))
    workspaces.collect()
    assert not [*(workspaces.root / "making").iterdir()]


def test_a_snapshot_comes_from_elsewhere_with_the_contents_that_are_lacking(workspaces, tmp_path):
    fill(workspaces.create("first"))
    kept = workspaces.snapshot("first")
    there = Workspaces(tmp_path / "there")
    files = there.lacking(kept)
    assert len(files) == 4
    with pytest.raises(SnapshotMissing, match="4 contents of the snapshot"):
        there.admit(kept)
    with pytest.raises(SnapshotMissing, match="a content came that is not"):
        there.take(files[0].sha256, [b"something else"])
    for one in files:
        halves = [workspaces.read(one.sha256, at, 1000) for at in range(0, one.size + 1, 1000)]
        there.take(one.sha256, halves)
    there.admit(kept)
    assert there.lacking(kept) == []
    assert seen(there.fork(kept.id, "second")) == seen(workspaces.path("first"))
    assert there.keep_only({kept.id}) == len(b"something else")
    there.delete("second")
    assert there.keep_only(set()) == kept.bytes
