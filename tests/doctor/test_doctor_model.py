"""What the doctor says of whole and broken checkpoints."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agent_runtime.doctor import Level, model
from engine.profiles import PROFILES


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo model that a test may break."""
    copy = tmp_path / "model"
    shutil.copytree(PROFILES["demo"].model, copy)
    return copy


def findings(folder):
    return {finding.subject: finding for finding in model.examine(folder)}


def the_failure(folder):
    (finding,) = [one for one in findings(folder).values() if one.level is not Level.OK]
    assert finding.why
    assert finding.fix
    return finding


def test_the_demo_model_is_in_order():
    found = findings(None)
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert "4 recurrent and 2 attention layers, MTP" in found["model config"].found
    assert found["model tokenizer"].found == "1024 tokens"


def test_no_directory(tmp_path):
    assert "is not a directory" in the_failure(tmp_path / "nowhere").found


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "Expecting property name"),
        (json.dumps({"model_type": "llama"}), "'llama' cannot be planned for"),
    ],
)
def test_a_config_that_cannot_be_used(folder, config, words):
    (folder / "config.json").write_text(config)
    assert words in the_failure(folder).found


def test_of_a_model_that_no_plan_knows_the_engine_decides(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "mellum"}))
    finding = the_failure(folder)
    assert finding.level is Level.WARN
    assert "start an engine" in finding.fix


@pytest.mark.parametrize(("text", "words"), [(None, "No such file"), ("{}", "tokenizer.json")])
def test_a_tokenizer_that_cannot_be_loaded(folder, text, words):
    path = folder / "tokenizer.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    finding = the_failure(folder)
    assert finding.subject == "model tokenizer"
    assert words in finding.found


def test_no_chat_template(folder):
    (folder / "chat_template.jinja").unlink()
    assert the_failure(folder).subject == "chat template"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "x"}))
    assert findings(folder)["chat template"].found == "in tokenizer_config.json"


def test_weights_that_end_too_early(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    finding = the_failure(folder)
    assert f"{len(content) - 1} bytes long, its header says {len(content)}" in finding.found


def test_a_pointer_in_place_of_the_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git-lfs" in the_failure(folder).found


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors file" in the_failure(folder).found


def test_a_file_that_the_index_names_but_is_not_there(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-{at % 3}.safetensors" for at, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "3 files" in findings(folder)["model weights"].found
    (folder / "model-1.safetensors").unlink()
    assert the_failure(folder).found == "model-1.safetensors: missing"


def test_a_head_that_the_config_promises_and_the_files_lack(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: np.array(value) for name, value in tensors.items() if "mtp." not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors")
    finding = the_failure(folder)
    assert finding.subject == "model MTP head"
    assert finding.level is Level.WARN
    assert "--no-mtp" in finding.fix
