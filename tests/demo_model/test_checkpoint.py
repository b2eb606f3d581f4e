"""The checkpoint is the same model for us and for transformers, and survives the disk."""

import json

import pytest
import torch
import torch.nn.functional as F

from engine.demo_model.architecture import Architecture
from engine.demo_model.export import (
    WEIGHTS,
    from_checkpoint,
    load_network,
    save_checkpoint,
    to_checkpoint,
)
from engine.demo_model.initialization import initialize
from engine.demo_model.network import Network
from engine.demo_model.tokenizer import CHAT_TEMPLATE


def test_the_checkpoint_is_small_enough_for_the_repository(folder):
    assert (folder / WEIGHTS).stat().st_size <= 15e6


def test_names_and_values_survive_the_checkpoint_format(network):
    state = network.state_dict()
    restored = from_checkpoint(to_checkpoint(state))
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], state[name]) for name in state)


def test_a_saved_network_loads_with_equal_logits(oracle, tmp_path):
    torch.manual_seed(1)
    network = Network(Architecture()).eval()
    initialize(network)
    save_checkpoint(network, oracle.tokenizer, tmp_path)
    ids = torch.randint(0, 1024, (2, 128))
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path)(ids), network(ids))


def test_the_committed_config_is_the_architecture_in_the_code(oracle, folder):
    tokens = {
        f"{name}_token_id": getattr(oracle.tokenizer, f"{name}_token_id")
        for name in ("pad", "bos", "eos")
    }
    committed = json.loads((folder / "config.json").read_text("utf-8"))
    assert committed == Architecture().to_config(**tokens)


def test_the_committed_template_is_the_one_in_the_code(folder):
    assert (folder / "chat_template.jinja").read_text("utf-8") == CHAT_TEMPLATE.read_text("utf-8")


def test_our_logits_are_those_of_transformers(oracle, network, writer):
    encoded = writer.conversation(1024, with_system=True)
    ids = torch.from_numpy(encoded.ids)[None]
    with torch.no_grad():
        ours = network(ids)
        theirs = oracle.model(ids, use_cache=False).logits
    assert (ours - theirs).abs().max() < 1e-3
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("split", [1, 63, 64, 100])
def test_reading_in_two_parts_gives_the_logits_of_reading_at_once(oracle, network, writer, split):
    ids = writer.conversation(128, with_system=False).ids.tolist()
    reading = oracle.start().read(ids[:split])
    for token in ids[split:]:
        reading.read([token])
    padded = F.pad(torch.tensor([ids]), (0, 64))
    with torch.no_grad():
        expected = network(padded)[0, len(ids) - 1]
    assert (reading.logits - expected).abs().max() < 1e-3
