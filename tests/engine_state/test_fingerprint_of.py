"""Engines that compute differently have different fingerprints."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from engine_cpu.server import MODEL
from safetensors.torch import save_file

from engine import digests, file_hashes
from engine.errors import UnsupportedModel


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Saves tensors in a folder of its own, in a file that counts as large."""
    monkeypatch.setattr(file_hashes, "_LARGE", 1 << 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def save(name, tensors):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        return digests.weights_digest(folder)

    return save


def tensors(**changed):
    generator = torch.Generator().manual_seed(3)
    made = {
        f"layers.{i}.in_proj.weight": torch.randn(300, 300, generator=generator) for i in range(3)
    }
    made |= {f"layers.{i}.norm.weight": torch.ones(300) for i in range(3)}
    return made | changed


def test_the_same_weights_are_told_as_the_same(checkpoint):
    assert checkpoint("one", tensors()) == checkpoint("other", tensors())


def test_one_number_of_a_small_tensor_makes_other_weights(checkpoint):
    norm = torch.ones(300)
    norm[157] = 1.001
    changed = tensors(**{"layers.2.norm.weight": norm})
    assert checkpoint("one", tensors()) != checkpoint("other", changed)


def test_one_matrix_that_was_trained_further_makes_other_weights(checkpoint):
    name = "layers.1.in_proj.weight"
    changed = tensors(**{name: tensors()[name] * 1.001})
    assert checkpoint("one", tensors()) != checkpoint("other", changed)


def test_one_row_of_a_matrix_makes_other_weights(checkpoint):
    name = "layers.1.in_proj.weight"
    edited = tensors()[name]
    edited[100] *= -1
    assert checkpoint("one", tensors()) != checkpoint("other", tensors(**{name: edited}))


def test_a_file_is_hashed_once_and_again_when_it_was_written_to(checkpoint, tmp_path, monkeypatch):
    hashed = []
    sha256 = file_hashes._sha256
    monkeypatch.setattr(file_hashes, "_sha256", lambda path: hashed.append(path) or sha256(path))
    first = checkpoint("one", tensors())
    folder = tmp_path / "one"
    file = folder / "model.safetensors"
    assert digests.weights_digest(folder) == first
    assert hashed == [file]
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=times)  # as if it were as old as before
    assert digests.weights_digest(folder) != first
    assert hashed == [file, file]


def test_ranks_that_start_together_hash_a_file_once(checkpoint, tmp_path, monkeypatch):
    checkpoint("one", tensors())
    shutil.rmtree(tmp_path / "cache")
    hashed, begun = [], threading.Event()
    sha256 = file_hashes._sha256

    def slow(path):
        hashed.append(path)
        begun.set()
        time.sleep(0.2)  # the other has time to make the same mistake
        return sha256(path)

    monkeypatch.setattr(file_hashes, "_sha256", slow)
    with ThreadPoolExecutor() as ranks:
        first = ranks.submit(digests.weights_digest, tmp_path / "one")
        begun.wait()
        other = ranks.submit(digests.weights_digest, tmp_path / "one")
        assert first.result() == other.result()
    assert len(hashed) == 1


@pytest.mark.parametrize(
    "left",
    [b"", b"a1b2c3", bytes(64), b"\xff" * 64, b"0" * 65],
    ids=["nothing", "a part", "zeros", "no text", "more"],
)
def test_what_is_kept_and_no_hash_is_hashed_again(checkpoint, tmp_path, left):
    first = checkpoint("one", tensors())
    (kept,) = (tmp_path / "cache" / "torpor" / "sha256").iterdir()
    kept.write_bytes(left)
    assert digests.weights_digest(tmp_path / "one") == first
    assert len(kept.read_text()) == 64


def test_a_full_disk_keeps_no_hash_and_no_engine_from_starting(checkpoint, tmp_path):
    first = checkpoint("one", tensors())
    shutil.rmtree(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "one")],
        capture_output=True,
        text=True,
    )
    assert done.stdout == first, done.stderr
    assert "could not be kept" in done.stderr


def test_a_user_without_a_home_is_told_that_hashes_are_not_kept(
    checkpoint, tmp_path, monkeypatch, caplog
):
    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    first = checkpoint("one", tensors())
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert digests.weights_digest(tmp_path / "one") == first
    assert "is not kept" in caplog.text


def test_hashes_that_cannot_be_kept_are_said_and_taken_each_time(
    checkpoint, tmp_path, monkeypatch, caplog
):
    (tmp_path / "a file").touch()
    first = checkpoint("one", tensors())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert digests.weights_digest(tmp_path / "one") == first
    assert "is not kept" in caplog.text


def test_a_tensor_of_another_name_makes_other_weights(checkpoint):
    renamed = tensors()
    renamed["layers.3.norm.weight"] = renamed.pop("layers.2.norm.weight")
    assert checkpoint("one", tensors()) != checkpoint("other", renamed)


def test_models_without_weight_files_are_refused_and_not_taken_for_one(checkpoint, tmp_path):
    checkpoint("model", tensors())
    told = SimpleNamespace(
        model_path=str(tmp_path / "model"), speculative_draft_model_path="someone/on-a-hub"
    )
    with pytest.raises(UnsupportedModel, match=r"no \*\.safetensors in someone/on-a-hub"):
        digests.draft_of(told, 1)
    with pytest.raises(UnsupportedModel, match="from that of other models"):
        digests.weights_digest(tmp_path)


def test_a_draft_from_a_folder_of_its_own_is_told_from_the_models_and_from_others(
    checkpoint, tmp_path
):
    checkpoint("model", tensors())
    checkpoint("draft", tensors())
    checkpoint("other draft", tensors(**{"layers.2.norm.weight": torch.zeros(300)}))
    (tmp_path / "link").symlink_to(tmp_path / "model")

    def draft(folder):
        path = None if folder is None else str(tmp_path / folder)
        told = SimpleNamespace(
            model_path=str(tmp_path / "model"), speculative_draft_model_path=path
        )
        return digests.draft_of(told, 1)

    assert {draft(None), draft("model"), draft("link")} == {"mtp:1"}
    assert len({draft(None), draft("draft"), draft("other draft")}) == 3
    assert draft("draft").startswith("mtp:1:")
    assert digests.draft_of(None, 0) == "none"


def test_what_an_engine_is_told_to_compute_otherwise_is_another_architecture():
    """SGLang itself reads the arguments, in a process of its own: it needs stand-ins on a CPU."""
    lines = [
        [],
        ["--json-model-override-args", '{"rope_theta": 1000000}'],
        ["--quantization", "fp8"],
        ["--context-length", "4096"],
    ]
    lines = [["--model-path", str(MODEL), *line] for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)],
        capture_output=True,
        check=True,
        text=True,
    )
    plain, *others, of_another_context = json.loads(done.stdout)
    assert len({plain, *others}) == 3
    assert plain == of_another_context


ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from engine import digests, file_hashes
from engine.errors import UnsupportedModel
file_hashes._LARGE = 1 << 10
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(digests.weights_digest(Path(sys.argv[1])), end="")
"""

PROGRAM = """
import argparse, json, sys
from pathlib import Path
from engine.cpu import imports, quiet
quiet.install()
imports.install()
from sglang.srt.server_args import ServerArgs
from engine.digests import architecture_digest
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
parsed = [parser.parse_args(line) for line in json.loads(sys.argv[1])]
print(json.dumps([architecture_digest(Path(one.model_path), one) for one in parsed]))
"""
