"""Every limit holds, and says which one it was. All bombs are bounded: see MILD in conftest.py."""

import asyncio
import time

import psutil
import pytest

from tools.errors import BadLimits
from tools.sandbox import Limits, cgroups
from tools.sandbox.watching import Watch

MIB = 2**20


def running(token: str) -> list[psutil.Process]:
    """Processes on this machine whose command line holds `token`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if token in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


async def test_below_its_limits_a_command_is_not_disturbed(box):
    ran = await box.python(
        "import subprocess\n"
        "children = [subprocess.Popen(['sleep', '0.3']) for _ in range(8)]\n"
        "data = bytearray(40 * 2**20)\n"
        "open('file', 'wb').write(data[:7 * 2**20])\n"
        "open('/tmp/file', 'wb').write(data[:3 * 2**20])\n"
        "print('x' * 60_000)"
    )
    assert (ran.exit_code, ran.ended, ran.hints) == (0, "", ())
    assert ran.output == "x" * 60_000 + "\n"


async def test_a_command_that_takes_too_long_is_ended_with_all_it_started(box):
    token = "9871.25"
    ran = await box.shell(
        f"setsid sleep {token} & nohup sleep {token} & (sleep {token} &) ; echo on; sleep {token}",
        seconds=0.5,
    )
    assert ran.text() == "on\n[ended: it took longer than 0.5 seconds]"
    assert ran.exit_code == 137
    assert running(token) == []


async def test_what_is_left_in_the_background_ends_with_the_command(box):
    ran = await box.shell("setsid sleep 9872.25 & echo done")
    assert ran.text() == "done"
    assert running("9872.25") == []


async def test_a_cancelled_command_ends_with_all_it_started(box):
    task = asyncio.create_task(box.shell("sleep 9873.25 & touch started; sleep 9873.25"))
    while not (box.workspace / "started").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _gone("9873.25")


async def _gone(token):
    """The kernel tells of an ended process a moment later."""
    deadline = time.monotonic() + 10
    while running(token):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def test_a_command_that_ignores_signals_is_ended_too(box):
    ran = await box.python(
        "import signal, time\n"
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "time.sleep(9874.25)",
        seconds=1.0,
    )
    assert ran.ended == "it took longer than 1 seconds"
    assert running("9874.25") == []


async def test_processor_time_is_limited(box):
    ran = await box.python("while True: pass", cpu_seconds=1)
    assert ran.text() == "[ended: it used more than 1 seconds of processor time]"


async def test_more_processes_than_allowed_can_not_be_started(box):
    ran = await box.python(
        "import subprocess\n"
        "children = []\n"
        "try:\n"
        "    for _ in range(60): children.append(subprocess.Popen(['sleep', '30']))\n"
        "finally:\n"
        "    print(len(children))\n"
    )
    assert 8 <= int(ran.output.split()[0]) <= 16
    assert "Resource temporarily unavailable" in ran.output
    assert ran.hints == ("the limit is 16 processes and threads",)


async def test_a_fork_bomb_stays_as_small_as_its_limit(box):
    """It tries 300 forks, from every child; each child lives for a second."""
    ran = await box.python(
        "import os, time\n"
        "end = time.monotonic() + 2\n"
        "for _ in range(300):\n"
        "    if time.monotonic() > end: break\n"
        "    try:\n"
        "        if os.fork() == 0: os.write(1, b'f')\n"
        "    except OSError:\n"
        "        os.write(1, b'.')\n"
        "        time.sleep(0.02)\n"
    )
    assert ran.output.count(".") > 0
    # The forks that worked: 16 processes at a time, and none ends while there are new ones.
    assert 8 <= ran.output.count("f") <= 16


async def test_threads_count_as_processes(box):
    ran = await box.python(
        "import threading, time\n"
        "for _ in range(60): threading.Thread(target=time.sleep, args=[5], daemon=True).start()"
    )
    assert "can't start new thread" in ran.output
    assert ran.hints == ("the limit is 16 processes and threads",)


async def test_reserving_far_too_much_memory_fails_at_once(box):
    ran = await box.python("bytearray(2**30)")
    assert "MemoryError" in ran.output
    assert ran.hints == ("the memory limit is 120 MiB",)


BOMBS = {
    "one process": (
        "kept = []\nfor _ in range(300): kept.append(bytearray(2**20)); time.sleep(0.001)"
    ),
    "many processes": (
        "for _ in range(5):\n"
        "    if os.fork() == 0: kept = bytearray(60 * 2**20); time.sleep(30)\n"
        "time.sleep(30)"
    ),
    "children of children": (
        "def bomb():\n"
        "    kept = bytearray(20 * 2**20)\n"
        "    if os.fork() == 0: bomb()\n"
        "    time.sleep(30)\n"
        "bomb()"
    ),
    "shared memory": (
        "kept = []\n"
        "for _ in range(30):\n"
        "    kept.append(mmap.mmap(-1, 10 * 2**20)); kept[-1].write(bytes(10 * 2**20))\n"
        "    time.sleep(0.01)"
    ),
}


@pytest.fixture(params=["as the machine has it", "watched"])
def held(request, monkeypatch):
    """Where control groups are, and as on a machine without."""
    if request.param == "watched":
        monkeypatch.setattr(cgroups, "_mounts", dict)


@pytest.mark.parametrize("name", BOMBS)
async def test_a_memory_bomb_is_ended(box, held, name):
    ran = await box.python(f"import mmap, os, time\n{BOMBS[name]}\ntime.sleep(30)")
    # A process may have been refused more by its own limit just before all are ended, and say so.
    assert ran.text().endswith("[ended: it used more than 120 MiB of memory]")
    assert ran.exit_code == 137


async def test_memory_that_processes_share_is_counted_once(box, held):
    ran = await box.python(
        "import os, time\n"
        "kept = bytearray(60 * 2**20)\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
        "for _ in range(6): os.wait()\n"
        "print('fine')"
    )
    assert ran.text() == "fine"


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_files_in_memory_are_limited(box, folder):
    ran = await box.shell(f"head -c 6M /dev/zero > {folder}/a && echo OUT")
    assert "No space left on device" in ran.output
    assert "OUT" not in ran.output
    assert ran.hints == ("/tmp holds 4 MiB; /workspace holds more",)


async def test_a_file_can_not_grow_over_its_limit(box):
    ran = await box.shell("exec head -c 20M /dev/zero > big")
    assert ran.ended == "it wrote a file larger than 8 MiB"
    assert (box.workspace / "big").stat().st_size == 8 * MIB
    ran = await box.python("open('sparse', 'wb').truncate(2**40)")
    assert "File too large" in ran.output
    assert ran.hints == ("the largest file that can be written is 8 MiB",)


async def test_the_workspace_can_not_be_filled(box):
    fill = "for i in $(seq 20); do head -c 4M /dev/zero > big$i; sleep 0.05; done; sleep 30"
    ran = await box.shell(fill)
    assert ran.text() == "[ended: the workspace grew over 16 MiB]"
    # Cleaning up is not refused, although more is there than may be.
    ran = await box.shell("sleep 0.3; rm big*; sleep 0.3; echo clean")
    assert ran.text() == "clean"


async def test_the_number_of_files_is_limited(box):
    ran = await box.shell("for i in $(seq 300); do mkdir f$i; done; sleep 30")
    assert ran.text() == "[ended: the workspace holds more than 200 files]"


async def test_folders_can_not_be_nested_endlessly(box):
    ran = await box.python(
        "import os, time\nfor _ in range(150): os.mkdir('d'); os.chdir('d')\ntime.sleep(30)"
    )
    assert "folders nested more than 64 deep" in ran.ended


async def test_the_disk_is_never_filled_even_by_files_that_no_walk_finds(box):
    ran = await box.shell("exec sleep 30", free_disk=2**60)
    assert ran.ended == "less than 1.07e+09 GiB are free on the workspace's disk"


async def test_a_command_whose_limits_can_not_be_looked_after_is_ended(box, monkeypatch):
    def broken(watch, before):
        raise OSError("no more descriptors")

    monkeypatch.setattr(Watch, "_disk", broken)
    ran = await box.shell("sleep 30")
    assert ran.ended == "its limits can't be looked after: no more descriptors"


async def test_endless_output_is_ended_and_what_came_first_is_kept(box):
    ran = await box.shell("yes endless")
    assert ran.ended == "it printed more than 64 KiB; print less, or to a file"
    assert ran.output == ("endless\n" * 8192)[: 64 * 1024]


async def test_output_that_is_not_text_is_shown_as_far_as_it_goes(box):
    ran = await box.shell(r"printf 'a\377b\0c'")
    assert ran.output == "a�b\0c"


async def test_open_files_are_limited(box):
    ran = await box.python("kept = [open('/dev/null') for _ in range(300)]")
    assert ran.hints == ("the limit is 256 open files",)


@pytest.mark.parametrize("name", ["seconds", "memory", "processes", "output_bytes"])
def test_a_limit_of_nothing_is_refused(name):
    with pytest.raises(BadLimits, match=f"the limit {name} is 0; it must be above zero"):
        Limits(**{name: 0})
