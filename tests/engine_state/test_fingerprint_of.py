"""Engines that compute differently have different fingerprints."""

import json
import subprocess
import sys

import pytest
import torch
from engine_cpu.server import MODEL
from safetensors.torch import save_file

from engine import digests


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Saves tensors in a folder of its own, of which one counts as large."""
    monkeypatch.setattr(digests, "_WHOLE_FILE", 1 << 10)

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


def test_a_tensor_of_another_name_makes_other_weights(checkpoint):
    renamed = tensors()
    renamed["layers.3.norm.weight"] = renamed.pop("layers.2.norm.weight")
    assert checkpoint("one", tensors()) != checkpoint("other", renamed)


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
