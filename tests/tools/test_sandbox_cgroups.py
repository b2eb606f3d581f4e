"""Control groups hold what no process has alone; where there are none, it is said."""

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tools.errors import SandboxUnavailable
from tools.sandbox import Limits, Sandbox, cgroups
from tools.sandbox.running import _tell_once

MIB = 2**20
TREE = Path("/sys/fs/cgroup")


def left() -> list[Path]:
    """Groups of sandboxes that are on this machine."""
    return [path for path in TREE.rglob("torpor-sandbox-*") if path.is_dir()]


def _missing() -> str:
    try:
        cgroups.Group(Limits()).close()
    except SandboxUnavailable as error:
        return str(error)
    return ""


MISSING = _missing()
held = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@held
async def test_files_in_memory_count_as_memory(box):
    """No process has them: a watch of processes does not see them."""
    fill = "for i in 1 2 3 4; do head -c 50M /dev/zero >/tmp/$i; done; sleep 30"
    ran = await box.shell(f"exec 2>&-; {fill}", temporary_bytes=400 * MIB, file_bytes=60 * MIB)
    assert ran.text() == "[ended: it used more than 120 MiB of memory]"


@held
async def test_processes_together_have_no_more_processors_than_they_may(box):
    ran = await box.python(
        "import os, time\n"
        "for _ in range(3): os.fork()\n"
        "start = time.process_time()\n"
        "while time.process_time() - start < 0.1: pass\n"
        "while True:\n"
        "    try: os.wait()\n"
        "    except OSError: break\n",
        cpus=0.5,
    )
    assert ran.exit_code == 0
    assert ran.seconds > 1.2  # eight processes, a tenth of a second each, at half a second a second


@held
async def test_a_command_sees_nothing_of_its_group_and_cannot_leave_it(box):
    ran = await box.shell("cat /proc/*/cgroup; ls /sys; mount | grep cgroup")
    assert "torpor" not in ran.output
    assert "No such file" in ran.output
    lines = [line for line in ran.output.splitlines() if line[0].isdigit()]
    assert lines
    assert {line.rpartition(":")[2] for line in lines} == {"/"}


@held
async def test_a_group_is_gone_when_its_command_has_ended_or_was_cancelled(box):
    before = set(left())
    ran = await box.shell("setsid sleep 30 & echo on")
    assert ran.held_by in ("control groups (cgroup v1)", "control groups (cgroup v2)")
    task = asyncio.create_task(box.shell("touch started; sleep 30"))
    while not (box.workspace / "started").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert set(left()) - before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not set(left()) - before


@held
def test_groups_whose_makers_were_killed_are_removed_by_the_next():
    one = cgroups.Group(Limits())
    ours = list(one._folders)
    for folder in ours:
        os.utime(folder, (0, 0))
    cgroups.Group(Limits()).close()
    assert not any(folder.exists() for folder in ours)
    one.close()


async def test_without_control_groups_memory_is_watched_and_that_is_said(box, monkeypatch, caplog):
    monkeypatch.setattr(cgroups, "_mounts", dict)
    _tell_once.cache_clear()
    for _ in range(2):
        ran = await box.shell("true")
    why = "a watch every 50 ms, because no control groups for memory are mounted here"
    assert ran.held_by == why
    assert caplog.text.count(why) == 1


@pytest.mark.parametrize(
    ("sandbox", "needed"),
    [
        (Sandbox(strict=True), "control groups are needed"),
        (Sandbox(Limits(cpus=1)), "cpus is limited"),
    ],
)
async def test_what_only_control_groups_can_hold_is_refused_without(
    box, monkeypatch, sandbox, needed
):
    monkeypatch.setattr(cgroups, "_mounts", dict)
    sandbox = replace(sandbox, limits=replace(sandbox.limits, free_disk=1))
    with pytest.raises(SandboxUnavailable, match=f"{needed}, and no control groups .* nothing was"):
        await sandbox.run(["touch", "here"], box.workspace)
    assert list(box.workspace.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [(30, "writable cgroup tree"), (16, "Delegate=yes"), (13, "Delegate=yes"), (2, "no limits on")],
)
def test_why_there_is_no_group_says_what_to_change(number, advice):
    assert advice in cgroups._why(OSError(number, "no"), Path("/group"))


@pytest.fixture
def busy(tmp_path, monkeypatch):
    """Our group of version 2 in a made-up tree. It has processes, so it can have none below it."""
    own = tmp_path / "system.slice" / "torpor.service"
    own.mkdir(parents=True)
    for folder in (own, own.parent):
        (folder / "cgroup.subtree_control").write_text("cpu memory pids")
    enable = cgroups._enable

    def refused(folder):
        if folder == own:
            raise OSError(errno.EBUSY, "Device or resource busy")
        enable(folder)

    monkeypatch.setattr(cgroups, "_enable", refused)
    tree = cgroups._Tree(2, dict.fromkeys(("memory", "pids", "cpu"), own))
    monkeypatch.setattr(cgroups, "_tree", lambda: tree)
    return own


@pytest.mark.parametrize("mark", [None, b"0"])
def test_no_group_is_made_beside_ours_for_root_where_that_was_not_given(busy, monkeypatch, mark):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if mark:
        os.setxattr(busy.parent, "user.delegate", mark)
    with pytest.raises(SandboxUnavailable, match=r"has processes of its own; .*Delegate=yes"):
        cgroups.Group(Limits())
    assert {one.name for one in busy.parent.iterdir()} == {busy.name, "cgroup.subtree_control"}


def test_no_group_is_made_beside_ours_where_another_user_owns_that(busy, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: busy.parent.stat().st_uid + 1)
    with pytest.raises(SandboxUnavailable, match="has processes of its own"):
        cgroups.Group(Limits())


def test_a_group_is_made_beside_ours_where_systemd_has_given_that_to_us(busy, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    os.setxattr(busy.parent, "user.delegate", b"1")
    assert cgroups._tree().made("memory", "one") == busy.parent / "one"
    assert (busy.parent / "one").is_dir()


def test_a_group_is_made_beside_ours_where_this_user_owns_that(busy, monkeypatch):
    if os.geteuid() == 0:
        os.chown(busy.parent, 1000, 1000)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cgroups._tree().made("memory", "one") == busy.parent / "one"
