"""What goes wrong at the command line is one clear line and a non-zero exit, never a traceback."""

import contextlib
import fcntl
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from agent_runtime.cli import _parser, main
from agent_runtime.commands.engine_options import console
from agent_runtime.commands.runtime_options import values_of
from agent_runtime.configuration import configured
from engine.launch import free_port
from engine.profiles import PROFILES

REPOSITORY = Path(__file__).parents[2]
TORPOR = [sys.executable, "-m", "agent_runtime.cli"]


def torpor(*arguments):
    return subprocess.run(
        [*TORPOR, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def run(capsys):
    """A command in this process: starting one takes longer than what most commands do."""

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return command


def test_addresses_are_told_with_their_brackets(capsys):
    told = "engine a serves at http://[fd00::1]:30000, log [/tmp/a.log]"
    console.print(told)
    assert capsys.readouterr().err == f"{told}\n"


def assert_clear_failure(done, *words):
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("torpor: ")]
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        ([], ["pydantic", "redis", "httpx", "torch"]),
        (["store"], ["torch", "transformers", "fastapi", "langgraph", "mcp"]),
        (["engine", "up"], ["torch", "transformers", "fastapi", "langgraph", "mcp"]),
        (["chat"], ["torch", "transformers", "langgraph", "fastapi", "prompt_toolkit"]),
        (["up"], ["torch", "transformers", "langgraph", "mcp"]),
    ],
)
def test_a_command_imports_what_it_needs(command, unneeded):
    script = "import sys\nfrom agent_runtime.cli import main\ntry:\n    main(sys.argv[1:])\n"
    script += "finally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--help"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert " ".join(["usage: torpor", *command]) in done.stdout
    assert "agent_runtime.cli" in done.stderr.split()
    assert set(unneeded) & set(done.stderr.split()) == set()


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_demo_model_is_found_from_any_folder(tmp_path):
    tell = "from engine.profiles import PROFILES; print(PROFILES['demo'].model)"
    done = subprocess.run(
        [sys.executable, "-c", tell], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == REPOSITORY / "models/demo"


@pytest.mark.parametrize("command", [["up"], ["engine", "up"], ["demo"]])
def test_no_model(run, tmp_path, command):
    done = run(*command, "--model", tmp_path / "nowhere", "--data", tmp_path / "data")
    assert_clear_failure(done, "no model in", "make model")


def test_an_incomplete_model(run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(PROFILES["demo"].model, model)
    (model / "model.safetensors").unlink()
    done = run("up", "--model", model, "--data", tmp_path / "data")
    assert_clear_failure(done, "incomplete", "safetensors")


def test_weights_that_are_not_weights(run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(PROFILES["demo"].model, model)
    (model / "model.safetensors").write_bytes(b"not weights")
    done = run("engine", "up", "--model", model, "--data", tmp_path / "data")
    assert_clear_failure(done, "damaged", "model.safetensors: not a safetensors file")


@pytest.mark.slow
def test_an_engine_that_ends_while_it_starts(tmp_path):
    options = ("--data", tmp_path, "--port", free_port())
    done = torpor("engine", "up", *options, "--", "--no-such-argument")
    assert_clear_failure(done, "the engine ended while starting", "--no-such-argument", "log:")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"redis://:secret@127.0.0.1:{free_port()}", "does not answer"),
        ("unix:///nowhere/valkey.sock", "does not answer"),
        ("mysql://:secret@localhost", "not a Redis URL"),
    ],
)
@pytest.mark.parametrize("command", [["up"], ["engine", "up"], ["store", "check"]])
def test_a_wrong_redis_url(run, tmp_path, command, url, word):
    done = run(*command, "--redis", url, "--data", tmp_path)
    assert_clear_failure(done, word)
    assert "secret" not in done.stdout + done.stderr


def test_serve_without_a_store():
    done = torpor("serve", "--redis", "unix:///nowhere", "--model", PROFILES["demo"].model)
    assert_clear_failure(done, "does not answer")


def test_the_runtimes_port_in_use(stage, taken_port):
    done = torpor("serve", "--redis", stage.store.url, "--model", stage.model, "--port", taken_port)
    assert_clear_failure(done, str(taken_port), "in use")


def test_up_with_a_port_in_use_starts_nothing(tmp_path, taken_port):
    done = torpor("up", "--data", tmp_path / "data", "--port", taken_port)
    assert_clear_failure(done, str(taken_port), "in use")
    assert not (tmp_path / "data" / "engine.log").exists()


def test_the_engines_port_in_use(tmp_path, taken_port):
    done = torpor("engine", "up", "--data", tmp_path / "data", "--port", taken_port)
    assert_clear_failure(done, str(taken_port), "in use")


def test_an_engine_id_in_use(stage, tmp_path):
    options = ("--data", tmp_path, "--port", free_port(), "--redis", stage.store.url)
    done = torpor("engine", "up", *options)
    assert_clear_failure(done, f"lives at {stage.engine.url} is registered as engine", "Nothing")
    assert not (tmp_path / "engine.log").exists()


def test_up_on_a_store_that_has_an_engine_says_what_to_do_with_it(run, stage, tmp_path):
    done = run("up", "--redis", stage.store.url, "--data", tmp_path, "--port", free_port())
    assert_clear_failure(done, stage.engine.url, "serves this store already", "torpor serve")
    assert "--engine-id" not in done.stderr


def test_an_unknown_profile(run, tmp_path):
    done = run("engine", "up", "--profile", "gpt", "--data", tmp_path / "data")
    assert_clear_failure(done, "no profile 'gpt'", "demo")


def test_data_in_use_by_another(run, stage):
    done = run("store", "check", "--data", stage.layout.data)
    assert_clear_failure(done, "in use")


def test_store_check_of_a_store_in_order(run, stage):
    done = run("store", "check", "--redis", stage.store.url)
    assert done.returncode == 0, done.stdout
    assert "snapshots" in done.stdout


@contextlib.contextmanager
def running_up(data, **streams):
    """`torpor up` on free ports, killed with all its children if a test leaves it: it, its URL,
    its children."""
    port = free_port()
    process = subprocess.Popen(
        [*TORPOR, "up", "--data", str(data), "--port", str(port)],
        cwd=REPOSITORY,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health", trust_env=False).json()["engines"] == 1:
                break
        except httpx.HTTPError:
            time.sleep(0.3)
        assert process.poll() is None, process.stderr and process.stderr.read()
    family = psutil.Process(process.pid).children(recursive=True)
    yield process, url, family
    for member in [*family, psutil.Process(process.pid)] if process.poll() is None else family:
        if member.is_running():
            member.kill()
    process.communicate()


@pytest.fixture
def up(tmp_path):
    with running_up(tmp_path / "data") as running:
        yield running


def test_up_serves_and_stops_cleanly_when_asked_to(up):
    process, url, family = up
    created = httpx.post(f"{url}/v1/sessions", json={}, trust_env=False)
    assert created.status_code == 201
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    _, left = psutil.wait_procs(family, timeout=10)
    assert left == []


@pytest.mark.slow
def test_up_ends_when_its_engine_dies(up):
    process, _, family = up
    (server,) = [p for p in family if "engine.serve" in p.cmdline()]
    server.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "the engine died; sessions are safe in the store" in errors


@pytest.mark.slow
def test_up_that_is_killed_leaves_nothing_behind_and_starts_again(tmp_path):
    data = tmp_path / "data"
    with running_up(data) as (process, url, family):
        created = httpx.post(f"{url}/v1/sessions", json={}, trust_env=False).json()
        process.kill()
        process.wait()
        with running_up(data) as (_, again, _):
            found = httpx.get(f"{again}/v1/sessions/{created['id']}", trust_env=False)
            assert found.status_code == 200
            assert not [p for p in family if p.is_running() and p.status() != "zombie"]
        assert [one.name for one in tmp_path.iterdir()] == ["data"]  # nothing is left beside it


@pytest.mark.slow
def test_up_stops_cleanly_when_its_terminal_is_closed(tmp_path):
    ours, theirs = pty.openpty()
    log = tmp_path / "log"

    def take_terminal():
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    terminal = {"stdin": theirs, "stdout": theirs, "preexec_fn": take_terminal}
    with (
        log.open("w") as errors,
        running_up(tmp_path / "data", stderr=errors, **terminal) as (process, _, family),
    ):
        os.close(theirs)
        os.close(ours)
        assert process.wait(60) == 0
        _, left = psutil.wait_procs(family, timeout=10)
        assert left == []
    assert "drained: 0 turns" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_an_engine_of_compose_keeps_hashes_of_weights_on_a_volume():
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    engine = compose["services"]["engine"]
    cache = Path(engine["environment"]["XDG_CACHE_HOME"])
    mounted = [one.split(":") for one in engine["volumes"]]
    assert [name for name, target, *_ in mounted if cache.is_relative_to(target)] == ["engine"]
    assert "engine" in compose["volumes"]


def test_compose_runs_commands_that_exist(monkeypatch):
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    services = compose["services"]
    assert "--maxmemory" in services["redis"]["command"]
    assert {service["restart"] for service in services.values()} == {"unless-stopped"}
    for name in ("engine", "runtime"):
        program, *arguments = services[name]["command"]
        assert program == "torpor"
        assert services[name]["environment"].keys() - {"XDG_CACHE_HOME"} == {
            "TORPOR_REDIS_URL", "TORPOR_MASTER_KEY_SOURCE",
        }  # fmt: skip
        for variable, value in services[name]["environment"].items():
            monkeypatch.setenv(variable, value)
        (secret,) = services[name]["secrets"]
        assert secret in compose["secrets"]
        key_source = f"file:/run/secrets/{secret}"
        parsed = _parser().parse_args(
            [
                argument.replace("${PROFILE:-nemotron-3-nano}", "nemotron-3-nano").replace(
                    "/etc/torpor", str(REPOSITORY / "deploy")
                )
                for argument in arguments
            ]
        )
        if name == "engine":
            assert parsed.redis is None  # it comes from the environment
            assert parsed.master_key == key_source
            assert parsed.profile in PROFILES
        else:
            settings = configured(values_of(parsed))
            assert settings.redis_url.startswith("redis://torpor:")
            assert settings.redis_url.endswith("@redis:6379")
            assert settings.master_key_source == key_source
            assert services[name]["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]


def test_an_output_that_nobody_reads_any_more_ends_a_command_in_silence():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*TORPOR, "profiles"], cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE, timeout=240
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
