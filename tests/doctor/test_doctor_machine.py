"""What the doctor says of the machine and the installation, and how the command ends."""

import contextlib
import io
import json
import os
import resource
import tomllib
from pathlib import Path

import pytest

from agent_runtime.cli import main
from agent_runtime.doctor import Level, installation, machine
from engine.self_check import SGLANG, Change, EngineCheck, check
from tools import sandbox

REPOSITORY = Path(__file__).parents[2]
GIB = 1 << 30


def levels(found):
    return {finding.subject: finding.level for finding in found}


def program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# ---- machine -----------------------------------------------------------------------


def test_this_machine_can_compile():
    assert set(levels(machine.compilers()).values()) == {Level.OK}


def test_a_machine_without_compilers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = list(machine.compilers())
    assert levels(found) == {"g++": Level.FAIL, "ninja": Level.FAIL}
    assert all("apt-get install" in finding.fix for finding in found)


def test_a_machine_without_headers(tmp_path, monkeypatch):
    """The compiler is this machine's, told to look nowhere but in an empty place."""
    real = next(machine.compilers()).found
    program(tmp_path, "bare", f'exec {real} -nostdinc -nostdinc++ "$@"')
    monkeypatch.setenv("CXX", str(tmp_path / "bare"))
    found = {finding.subject: finding for finding in machine.compilers()}
    assert found["OpenSSL headers"].level is Level.FAIL
    assert "libssl-dev" in found["OpenSSL headers"].fix


def test_a_machine_where_code_cannot_be_isolated(tmp_path, monkeypatch):
    assert machine.sandbox(sandbox.check()).level is Level.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = machine.sandbox(sandbox.check())
    assert finding.level is Level.WARN
    assert "apt-get install bubblewrap" in finding.found
    assert "Linux 5.14" in finding.fix


def test_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    finding = machine.gpus()
    assert finding.level is Level.FAIL
    assert "NVIDIA H100 80GB HBM3" in finding.found
    assert "install a torch build" in finding.fix


@pytest.mark.parametrize(
    ("available", "level"), [(20, Level.OK), (3, Level.WARN), (0.5, Level.FAIL)]
)
def test_little_memory(available, level):
    assert machine.memory(int(available * GIB), 32 * GIB).level is level


@pytest.mark.parametrize(
    ("soft", "level"),
    [
        (resource.RLIM_INFINITY, Level.OK),
        (65536, Level.OK),
        (1024, Level.WARN),
        (256, Level.FAIL),
    ],
)
def test_few_open_files(soft, level):
    assert machine.open_files(soft, 65536).level is level


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    finding = machine.disk(tmp_path / "file" / "data")
    assert finding.level is Level.FAIL
    assert "cannot be written to" in finding.found


# ---- installation --------------------------------------------------------------------


def test_the_release_that_is_checked_for_is_the_one_that_is_installed_and_recorded():
    recorded = tomllib.loads((REPOSITORY / "tests/engine_cpu/upstream.toml").read_text())
    assert recorded["sglang"] == SGLANG
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert f"sglang=={SGLANG}" in project["project"]["optional-dependencies"]["gpu"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """How the command ended on this machine, what it printed, and what it had seen of SGLang."""
    seen, printed = [], io.StringIO()

    def spy(*, cpu):
        seen.append(check(cpu=cpu))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(installation, "check", spy)
        code = main(["doctor", "--json", "--data", str(tmp_path_factory.mktemp("doctor"))])
    return code, json.loads(printed.getvalue()), *seen


def test_every_change_reaches_our_code_in_the_installed_sglang(here):
    _, _, seen = here
    assert seen.version == SGLANG
    assert seen.plugin
    assert seen.errors == ()
    assert len(seen.changes) > 10
    assert all(change.in_place for change in seen.changes)


def test_an_sglang_that_lacks_everything_is_found(tmp_path, monkeypatch):
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen = check(cpu=True)
    assert not any(change.in_place for change in seen.changes)
    assert seen.errors
    assert Level.FAIL in levels(installation.sglang(seen)).values()


def test_a_plugin_that_is_shut_out_is_found(monkeypatch):
    monkeypatch.setenv("SGLANG_PLUGINS", "another")
    monkeypatch.setattr("engine.self_check.installed", lambda: None)  # spare the import
    assert not check(cpu=True).plugin


CHANGE = Change("sglang.srt.somewhere", "states would be missed", in_place=True)


@pytest.mark.parametrize(
    ("seen", "subject", "level", "words"),
    [
        (EngineCheck(None, False, (), ()), "sglang", Level.FAIL, "not installed"),
        (EngineCheck("0.6.0", True, (CHANGE,), ()), "sglang", Level.WARN, "0.6.0"),
        (EngineCheck(SGLANG, False, (CHANGE,), ()), "plugin", Level.FAIL, "torpor"),
        (
            EngineCheck(SGLANG, True, (Change("a.b", "c", in_place=False),), ()),
            "patch",
            Level.FAIL,
            "a.b does not reach our code",
        ),
        (EngineCheck(SGLANG, True, (), ("it broke",)), "sglang", Level.FAIL, "it broke"),
    ],
)
def test_what_is_wrong_with_sglang_is_said(seen, subject, level, words):
    wrong = [one for one in installation.sglang(seen) if one.level is not Level.OK]
    assert [(one.subject, one.level) for one in wrong] == [(subject, level)]
    assert words in wrong[0].found


# ---- the command ---------------------------------------------------------------------


def test_the_command_passes_here(here):
    code, report, _ = here
    assert (code, report["failed"]) == (0, 0)
    subjects = {finding["subject"] for finding in report["findings"]}
    assert {
        "python", "torch", "sglang", "patches", "g++", "gpu", "memory", "disk", "open files",
        "embedded store", "embedded store maxmemory-policy", "embedded store clock",
        "model config", "model weights",
    } <= subjects  # fmt: skip


def test_the_command_fails_when_something_does(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("agent_runtime.doctor.installation.examine", lambda: iter(()))  # slow
    missing = ["--redis", f"unix://{tmp_path}/none", "--model", str(tmp_path / "none")]
    assert main(["doctor", *missing, "--data", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "fail  redis: unix://" in shown
    assert "fail  model:" in shown
    assert "      why: " in shown
    assert "      fix: start it" in shown
    assert "2 failed" in shown
