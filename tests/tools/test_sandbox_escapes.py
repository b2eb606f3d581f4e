"""Ways out of the sandbox, each one tried for real."""

import asyncio
import os
import re
import socket

import psutil
import pytest

from tools.errors import OutsideWorkspace, ToolFailed
from tools.workspaces import Tree

# What a script prints when its way out worked, made so that no error message can hold it.
OUT = 'print("OU" + "T")'
TRY = """
import ctypes, errno, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    return "worked" if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("the host's secret")
    path.chmod(0o644)
    return path


async def test_a_command_that_is_allowed_works(box):
    ran = await box.python("print(open('a', 'w').write('x'), sum(range(10)))")
    assert (ran.text(), ran.exit_code) == ("1 45", 0)
    assert (box.workspace / "a").read_text() == "x"


async def test_no_file_of_the_host_can_be_read(box, secret):
    for path in (secret, "/etc/shadow", "/root/.bashrc", "/home", "/var", "/sys", "/mnt", "/boot"):
        ran = await box.shell(f"cat {path} || ls {path}")
        assert ran.exit_code != 0, path
        assert "No such file" in ran.output
    ran = await box.shell("cat /etc/passwd")
    assert ran.output == "user:x:1000:1000::/workspace:/bin/sh\n"
    ran = await box.shell("ls -A / | grep -v '^lib'; ls -A /tmp /workspace")
    assert set(ran.output.split()) <= {
        "bin", "dev", "etc", "proc", "root", "sbin", "tmp", "usr", "workspace",
        "/tmp:", "/workspace:",
    }  # fmt: skip


async def test_nothing_of_the_environment_comes_along(box, monkeypatch):
    monkeypatch.setenv("API_KEY", "sk-secret")
    ran = await box.shell("env; cat /proc/*/environ | tr '\\0' '\\n'; hostname")
    assert "sk-secret" not in ran.output
    assert "API_KEY" not in ran.output
    assert socket.gethostname() not in ran.output.split()


async def test_only_the_workspace_and_tmp_can_be_written(box):
    ran = await box.shell(
        "for f in /x /usr/x /etc/x /dev/x /proc/x /bin/x /root/x /run/x; do"
        " touch $f 2>/dev/null && echo OUT $f; done; touch /tmp/x /workspace/x && echo fine"
    )
    assert ran.output == "fine\n"
    ran = await box.shell("touch /usr/x")
    assert "only /workspace and /tmp can be written to" in ran.text()


async def test_there_is_no_network_not_even_the_hosts_loopback(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        port = server.getsockname()[1]
        ran = await box.python(
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); {OUT}"
        )
        assert "ConnectionRefusedError" in ran.output
        with pytest.raises(TimeoutError):
            server.accept()
    # 192.0.2.0/24 is of no host anywhere.
    ran = await box.python(f"import socket; socket.create_connection(('192.0.2.1', 80), 2); {OUT}")
    assert "Network is unreachable" in ran.output
    assert "[there is no network]" in ran.text()
    ran = await box.shell("cat /proc/net/dev | tail -n +3 | cut -d: -f1")
    assert ran.output.split() == ["lo"]


async def test_sockets_that_no_network_namespace_holds_are_refused(box):
    name = f"\0torpor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        ran = await box.python(
            f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); {OUT}"
        )
        assert "ConnectionRefusedError" in ran.output
    for family in ("AF_VSOCK", "AF_PACKET", "AF_ALG"):
        ran = await box.python(f"import socket; socket.socket(socket.{family}, 3); {OUT}")
        assert "not supported" in ran.output


@pytest.mark.parametrize("path", ["/etc/shadow", "/root", "secret", ".."])
async def test_links_and_dots_lead_nowhere_from_inside(box, secret, path):
    path = str(secret) if path == "secret" else path
    ran = await box.shell(
        f"ln -s {path} link; cat link; ls link/; cat ../../../../../..{secret};"
        f" cat /proc/self/cwd/../..{secret}; cat /proc/self/root{secret}"
    )
    assert "secret\n" not in ran.output
    assert "root:" not in ran.output


@pytest.mark.parametrize(
    "path", ["link", "folder/secret.txt", "../secret.txt", "inside/../../secret.txt", "/etc/passwd"]
)
async def test_links_and_dots_lead_nowhere_from_outside(box, secret, path):
    """What is made inside is read by the file tools outside, as another user."""
    await box.shell(f"ln -s {secret} link; ln -s {secret.parent} folder; mkdir inside")
    tree = Tree(box.workspace)
    with pytest.raises(OutsideWorkspace), tree.parent(path) as (folder, name):
        tree.open(folder, name, path)


async def test_a_folder_swapped_for_a_link_at_the_wrong_moment_leads_nowhere(box, secret):
    """A command swaps them as fast as it can, while they are read from outside."""
    (box.workspace / "folder").mkdir()
    (box.workspace / "folder" / "secret.txt").write_text("its own")
    (box.workspace / "folder").chmod(0o777)
    box.workspace.chmod(0o777)
    swapping = asyncio.create_task(
        box.python(
            "import os\n"
            f"os.symlink({str(secret.parent)!r}, 'link')\n"
            "open('started', 'w').close()\n"
            "for _ in range(20_000):\n"
            "    os.rename('folder', 'aside'); os.rename('link', 'folder')\n"
            "    os.rename('folder', 'link'); os.rename('aside', 'folder')\n"
        )
    )
    tree, seen = Tree(box.workspace), {"read": 0, "refused": 0}

    def look():
        try:
            with tree.parent("folder/secret.txt") as (folder, name):
                opened = tree.open(folder, name, "folder/secret.txt")
        except ToolFailed:
            seen["refused"] += 1
            return
        with os.fdopen(opened) as file:
            assert file.read() == "its own"
        seen["read"] += 1

    while not (box.workspace / "started").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    while not swapping.done():
        await asyncio.to_thread(lambda: [look() for _ in range(200)])
    assert (await swapping).exit_code == 0
    assert seen["read"] > 0
    assert seen["refused"] > 0


async def test_proc_shows_only_the_sandbox(box):
    # Several processes of this user run on the host; pytest is one.
    ran = await box.shell("ls -d /proc/[0-9]* | wc -l; tr '\\0' ' ' </proc/1/cmdline")
    count, first = ran.output.split("\n", 1)
    assert int(count) < 8
    assert "bwrap --args" in first
    assert str(box.workspace) not in first
    for path in ("/proc/1/root/", "/proc/self/root/", "/proc/1/cwd/"):
        ran = await box.shell(f"ls {path}; ls {path}mnt {path}home {path}var")
        assert ran.exit_code != 0
        assert "torpor" not in ran.output


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/1/mem",
        "/proc/self/uid_map",
        "/proc/self/setgroups",
        "/proc/kcore",
        "/dev/kmsg",
        "/dev/mem",
        "/dev/vda",
    ],
)
async def test_the_kernels_files_can_not_be_written(box, path):
    ran = await box.python(f"open({path!r}, 'r+b', 0).write(b'0'); {OUT}")
    assert ran.exit_code == 1
    assert "OUT" not in ran.output


async def test_the_program_that_made_the_sandbox_can_not_be_replaced(box):
    ran = await box.python(f"open('/proc/1/exe', 'r+b'); {OUT}")
    assert "Error" in ran.output
    ran = await box.shell("echo x > /usr/bin/bwrap; echo x > /proc/self/exe")
    assert "Read-only file system" in ran.output


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ptrace", "call(101, 16, 1, 0, 0)"),
        ("ptrace a child", "call(101, 0, 0, 0, 0)"),
        ("read another's memory", "call(310, 1, 0, 0, 0, 0, 0)"),
        ("unshare", "call(272, 0x10000000)"),
        ("clone with a namespace", "call(56, 0x10000000 | 17, 0, 0, 0, 0)"),
        ("setns", "call(308, 0, 0)"),
        ("mount", "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)"),
        ("umount", "call(166, b'/proc/sys', 0)"),
        ("chroot", "call(161, b'/tmp')"),
        ("pivot_root", "call(155, b'/tmp', b'/tmp')"),
        ("open by handle", "call(304, -1, 0, 0)"),
        ("bpf", "call(321, 0, 0, 0)"),
        ("perf", "call(298, 0, 0, 0, 0, 0)"),
        ("io_uring", "call(425, 1, 0)"),
        ("userfaultfd", "call(323, 0)"),
        ("keyring", "call(250, 0, -3, 0)"),
        ("load a module", "call(175, 0, 0, 0)"),
        ("memfd", "call(319, b'm', 0)"),
        ("shared memory", "call(29, 1, 4096, 0o1600)"),
        ("reboot", "call(169, 0, 0, 0, 0)"),
        ("type into the terminal", "call(16, 0, 0x5412, b'x')"),
        ("setuid", "call(105, 0)"),
        ("setgroups", "call(116, 1, b'0000')"),
        ("raise a limit", "call(302, 0, 6, b'\\xff' * 16, 0)"),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are x86-64's")
async def test_system_calls_that_lead_out_are_refused(box, name, code):
    ran = await box.python(f"{TRY}\nprint({code})")
    assert ran.output in ("EPERM\n", "EINVAL\n") if name == "setuid" else ran.output == "EPERM\n"


async def test_clone3_is_missing_and_threads_and_children_work_without(box):
    ran = await box.python(f"{TRY}\nprint(call(435, 0, 0))")
    assert ran.output == "ENOSYS\n"
    ran = await box.python(
        "import subprocess, threading\n"
        "threading.Thread(target=print, args=['thread']).start()\n"
        "subprocess.run(['echo', 'child'])"
    )
    assert sorted(ran.output.split()) == ["child", "thread"]


async def test_calls_of_another_architecture_end_the_process(box):
    if os.uname().machine != "x86_64":
        pytest.skip("only x86-64 has them")
    # mov eax, 20; int 0x80; ret: getpid as 32-bit programs call it
    ran = await box.python(
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        f"ctypes.CFUNCTYPE(ctypes.c_int)(address)(); {OUT}"
    )
    assert ran.exit_code == 128 + 31  # SIGSYS
    assert "OUT" not in ran.output


async def test_signals_reach_nobody_outside(box):
    here = os.getpid()
    ran = await box.python(
        f"{TRY}\n"
        f"for number in (1, os.getppid(), {here}, {psutil.Process().ppid()}):\n"
        "    try:\n"
        "        os.kill(number, 9)\n"
        "    except OSError as error:\n"
        "        print(number, error)\n"
        "os.kill(-1, 0)\n"
        "print('alive')"
    )
    assert f"{here} [Errno 3] No such process" in ran.output
    ran = await box.shell("kill -9 -1; echo still here")
    assert psutil.pid_exists(here)


async def test_programs_that_make_others_root_do_not(box):
    ran = await box.shell("cp /usr/bin/id me; chmod 4755 me; ./me; su -c id </dev/null; id -u")
    assert "uid=0" not in ran.output
    assert "uid=1000" in ran.output
    assert ran.output.rstrip().endswith("1000")


async def test_a_namespace_of_its_own_can_not_be_had(box):
    ran = await box.shell("unshare -U id; unshare -n id; bwrap --ro-bind / / id")
    assert "uid=" not in ran.output


async def test_no_open_file_of_the_host_comes_along(box, secret):
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        ran = await box.shell(f"ls -l /proc/1/fd /proc/self/fd; cat <&{file.fileno()}")
    opened = {line.rpartition(" -> ")[2] for line in ran.output.splitlines() if " -> " in line}
    assert opened
    assert {re.sub("[:/].*", "", one.removeprefix("/")) for one in opened} <= {
        "dev", "pipe", "anon_inode", "proc"
    }  # fmt: skip
    assert "the host's secret" not in ran.output


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a device", "os.mknod('disk', 0o60666, os.makedev(254, 0))"),
        ("a hard link to a program", "os.link('/usr/bin/env', 'env')"),
        ("a hard link to who we are", "os.link('/etc/passwd', 'passwd')"),
        ("a raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
        ("routes", "route()"),
        ("a capability of a file", "os.setxattr('.', 'security.capability', b'0' * 20)"),
        ("another owner", "os.chown('.', 0, 0)"),
        ("a real-time process", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"),
        ("a higher priority", "os.setpriority(os.PRIO_PROCESS, 0, -5)"),
        ("protection from the end", "open('/proc/self/oom_score_adj', 'wb', 0).write(b'-1')"),
        ("another host name", "socket.sethostname('other')"),
        ("the terminal", "os.open('/dev/tty', os.O_RDWR)"),
    ],
)
async def test_what_only_an_administrator_may_is_refused(box, name, code):
    ran = await box.python(
        "import os, socket, struct\n"
        "def route():\n"
        "    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n"
        # RTM_NEWLINK, with a request for an answer: the loopback is to go down.
        "    netlink.send(struct.pack('IHHIIBBHiII', 32, 16, 5, 1, 0, 0, 0, 0, 1, 0, 1))\n"
        "    code = struct.unpack_from('i', netlink.recv(4096), 16)[0]\n"
        "    if code: raise OSError(-code, os.strerror(-code))\n"
        f"{code}; {OUT}"
    )
    assert ran.exit_code == 1
    assert "Error" in ran.output
    assert "OUT" not in ran.output


async def test_files_of_an_earlier_command_do_not_survive_in_tmp(box):
    await box.shell("echo secret > /tmp/a; echo secret > /dev/shm/a")
    ran = await box.shell("ls -A /tmp /dev/shm")
    assert ran.output.split() == ["/dev/shm:", "/tmp:"]
