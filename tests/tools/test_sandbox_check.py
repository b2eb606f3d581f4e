"""Where no sandbox can be made, nothing runs, and the message says what to change."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools import sandbox
from tools.errors import FolderMissing, SandboxUnavailable
from tools.sandbox import cgroups
from tools.sandbox.explain import explain

ROOT = Path(__file__).parent.parent.parent
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
CHECK = [sys.executable, "-W", "error", "-m", "tools.sandbox"]


def test_this_machine_can_make_a_sandbox_that_holds():
    support = sandbox.check()
    assert support.available, support.found
    assert support.found == "bubblewrap: own namespaces, no network, seccomp filter, limits hold"


async def test_the_check_can_be_made_where_an_event_loop_runs():
    assert sandbox.check().available


def test_the_check_fails_where_the_process_limit_does_not_hold(monkeypatch):
    """As on a kernel that counts the processes of root as nobody's, without control groups."""
    monkeypatch.setattr(sandbox.Limits, "wrapper", lambda limits: [])
    monkeypatch.setattr(cgroups, "_mounts", dict)
    support = sandbox.check()
    assert not support.available
    assert "without a process limit" in support.found


def test_the_command_says_what_is_needed():
    shown = subprocess.run(CHECK, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    support = sandbox.check()
    assert shown.startswith(f"{support.found}\nmemory held by {support.held_by}\n")
    assert "bubblewrap 0.8.0 or later" in shown


@as_root
def test_root_without_the_right_to_mount_is_told_so():
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--", *CHECK]
    ran = subprocess.run(without, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "no sandbox could be made here, nothing was run" in ran.stdout
    assert "--cap-add SYS_ADMIN" in ran.stdout


# Python, its packages and this repository, where any user can read them.
AS_ANOTHER = """set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/packages /mnt/torpor
mount --bind "$1" /mnt/python
mount --bind "$2" /mnt/packages
mount --bind "$3" /mnt/torpor
cd /mnt/torpor
export PYTHONPATH=/mnt/torpor:/mnt/packages
shift 3
exec setpriv --reuid=64901 --regid=64901 --clear-groups --inh-caps=-all -- "$@"
"""
PYTHON = "/mnt/python/bin/python3"
BOMB = """
import asyncio, tempfile
from pathlib import Path
from tools.sandbox import Limits, Sandbox
from tools.workspaces import Workspaces

async def main(folder):
    path = Workspaces(Path(folder) / "w").create("one")
    sandbox = Sandbox(Limits(memory=100 * 2**20, free_disk=1))
    code = "import time\\nkept = []\\nfor _ in range(300): kept.append(bytearray(2**20))\\n"
    ran = await sandbox.run(["python3", "-c", code + "time.sleep(30)"], path)
    print(ran.text())

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
"""


def as_another_user(*command: str) -> subprocess.CompletedProcess[str]:
    paths = [sys.base_prefix, sysconfig.get_paths()["purelib"], str(ROOT)]
    script = ["sh", "-c", AS_ANOTHER, "sh", *paths, *command]
    return subprocess.run(
        ["unshare", "--mount", "--", *script], capture_output=True, text=True, check=False
    )


@as_root
def test_an_ordinary_user_can_make_a_sandbox_too():
    ran = as_another_user(PYTHON, "-m", "tools.sandbox")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "limits hold" in ran.stdout


@as_root
def test_an_ordinary_user_is_protected_from_a_memory_bomb():
    ran = as_another_user(PYTHON, "-c", BOMB)
    assert ran.stdout == "[ended: it used more than 100 MiB of memory]\n", ran.stderr


@as_root
def test_a_user_who_may_not_make_namespaces_is_told_so():
    # In a user namespace of its own, whose setting is nobody else's.
    forbid = f"echo 0 > /proc/sys/user/max_user_namespaces; exec {PYTHON} -m tools.sandbox"
    ran = as_another_user("unshare", "--user", "--map-root-user", "sh", "-c", forbid)
    assert ran.returncode == 1, ran.stderr
    assert "nothing was run" in ran.stdout
    assert "max_user_namespaces above zero" in ran.stdout


async def test_without_bubblewrap_nothing_runs(box, monkeypatch, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sh").symlink_to(shutil.which("sh"))
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        await box.shell("touch here")
    assert list(box.workspace.iterdir()) == []


async def test_a_workspace_that_is_not_there_or_not_ours_is_refused(box, tmp_path):
    with pytest.raises(FolderMissing, match="is not a folder"):
        await box.sandbox.run(["true"], tmp_path / "missing")
    if os.geteuid() == 0:
        with pytest.raises(SandboxUnavailable, match="belongs to user 0"):
            await box.sandbox.run(["true"], tmp_path)


async def test_a_command_that_does_not_exist_is_no_broken_sandbox(box):
    ran = await box.sandbox.run(["no-such-program"], box.workspace)
    assert ran.exit_code == 127
    assert "no-such-program" in ran.output


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        # As bubblewrap 0.8.0 and 0.6.1 say it.
        ("bwrap: No permissions to create new namespace, likely because", "max_user_namespaces"),
        ("bwrap: setting up uid map: Permission denied", "apparmor_restrict"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor=unconfined"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths"),
        ("bwrap: Unknown option --disable-userns", "0.8.0 or later"),
        ("something new", "python -m tools.sandbox"),
    ],
)
def test_each_reason_has_its_advice(said, advice):
    assert advice in explain(said)
