"""The committed checkpoint, loaded once."""

from pathlib import Path

import pytest
import torch

from engine.demo_model import filler
from engine.demo_model.conversations import Writer
from engine.demo_model.export import load_network
from engine.demo_model.network import Network
from engine.demo_model.oracle import Oracle

MODEL = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder() -> Path:
    return MODEL


@pytest.fixture(scope="session")
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


@pytest.fixture(scope="session")
def network(folder: Path) -> Network:
    return load_network(folder)


@pytest.fixture
def writer(oracle: Oracle) -> Writer:
    """A writer of held-out dialogues, the same for every test."""
    return Writer(filler.load_library("held_out"), oracle.tokenizer, seed=77)
