"""What a process starts ends with it, however it ends."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from state_store.children import start_child

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]

STARTER = """
import signal, sys, threading, time
from state_store.children import start_child
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
children = []
def start():
    children.append(start_child(sys.argv[1:], sent_at_our_end=signal.SIGTERM))
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(children[0].pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def starter():
    command = [sys.executable, "-c", STARTER, *SLEEP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_child_ends_with_its_parent(starter, sent):
    child = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(sent)
    _, alive = psutil.wait_procs([child], timeout=30)
    assert not alive


def test_a_child_outlives_the_thread_that_asked_for_it():
    children = []

    def start():
        children.append(start_child(SLEEP, sent_at_our_end=signal.SIGKILL))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with pytest.raises(subprocess.TimeoutExpired):
        children[0].wait(0.5)
    children[0].kill()
    assert children[0].wait() == -signal.SIGKILL


def test_a_child_has_its_options_and_its_exit_code(tmp_path):
    code = "import os, sys; print(os.environ['WHICH'], sys.argv[1:]); sys.exit(7)"
    child = start_child(
        [sys.executable, "-c", code, "a b", "-c"],
        sent_at_our_end=signal.SIGTERM,
        stdout=subprocess.PIPE,
        env=os.environ | {"WHICH": "mine"},
    )
    said, _ = child.communicate()
    assert (said, child.returncode) == (b"mine ['a b', '-c']\n", 7)


def test_a_start_that_fails_is_told_to_who_asked_and_the_next_one_works(tmp_path):
    for folder, fails in ((tmp_path / "nowhere", True), (tmp_path, False)):
        command = [sys.executable, "-c", ""]
        if fails:
            with pytest.raises(FileNotFoundError):
                start_child(command, sent_at_our_end=signal.SIGTERM, cwd=folder)
        else:
            assert start_child(command, sent_at_our_end=signal.SIGTERM, cwd=folder).wait() == 0


def test_a_forked_process_starts_children_of_its_own():
    first = start_child(SLEEP, sent_at_our_end=signal.SIGKILL)  # has this process's starter run
    first.kill()
    first.wait()
    reading, writing = os.pipe()
    forked = os.fork()
    if not forked:
        child = start_child(SLEEP, sent_at_our_end=signal.SIGKILL)
        os.write(writing, str(child.pid).encode())
        os._exit(0)
    child = int(os.read(reading, 20))
    os.waitpid(forked, 0)
    os.close(reading)
    os.close(writing)
    if psutil.pid_exists(child):
        _, alive = psutil.wait_procs([psutil.Process(child)], timeout=30)
        assert not alive
