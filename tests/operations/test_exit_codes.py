"""A command that is stopped says so with its exit code, unless it runs until it is stopped."""

import signal
import socket
import subprocess
import sys

import pytest

SESSION = "ses-8d16d7efef9c42c5-8b11a5aafab777f4"


@pytest.fixture
def silent():
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


@pytest.mark.parametrize(
    ("words", "stopped_by", "code"),
    [
        ("keys revoke key-1", signal.SIGINT, 130),
        (f"store export {SESSION} FOLDER/backup", signal.SIGTERM, 143),
        (f"store export {SESSION} FOLDER/backup", signal.SIGHUP, 129),
        ("serve --model models/demo", signal.SIGTERM, 0),
    ],
)
def test_a_command_that_is_stopped_before_it_is_done_has_not_succeeded(
    tmp_path, silent, words, stopped_by, code
):
    command = [sys.executable, "-m", "agent_runtime.cli"]
    command += words.replace("FOLDER", str(tmp_path)).split()
    command += ["--redis", f"redis://127.0.0.1:{silent.getsockname()[1]}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    connection, _ = silent.accept()  # now it waits for the store
    process.send_signal(stopped_by)
    output, _ = process.communicate(timeout=60)
    connection.close()
    assert process.returncode == code, output
    assert b"Traceback" not in output
    assert not list(tmp_path.iterdir())


def test_nohup_has_a_command_go_on_when_its_terminal_is_closed(silent):
    """It starts it with SIGHUP ignored."""
    command = ["nohup", sys.executable, "-m", "agent_runtime.cli", "keys", "revoke", "key-1"]
    command += ["--redis", f"redis://127.0.0.1:{silent.getsockname()[1]}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    connection, _ = silent.accept()
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(60) == 143
    connection.close()
