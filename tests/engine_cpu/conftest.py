import random

import pytest

from agent_runtime.bench.peers.gguf_file import write_gguf
from agent_runtime.bench.peers.llama import LlamaProcess

from .agreeing_checkpoint import write_agreeing_checkpoint
from .server import CHUNK_SIZE, MODEL, MTP, PAGE_SIZE, running
from .transformers_oracle import TransformersModel

VOCABULARY = 1024
# Around every boundary the engine has: one token, pages, prefill chunks (the longest spans three).
LENGTHS = [1, 5, PAGE_SIZE, PAGE_SIZE + 1, CHUNK_SIZE - 1, CHUNK_SIZE, 2 * CHUNK_SIZE + 77]


@pytest.fixture(scope="session")
def prompts():
    """Random ids: no model has seen them, so no answer comes from habit."""
    rng = random.Random(1)
    return [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in LENGTHS]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine_cpu")


@pytest.fixture(scope="session")
def server(folder):
    with running(MODEL, folder / "server.log") as started:
        yield started


@pytest.fixture(scope="session")
def mtp_server(folder):
    with running(MODEL, folder / "mtp.log", *MTP) as started:
        yield started


@pytest.fixture(scope="session")
def agreeing(folder):
    checkpoint = folder / "agreeing"
    write_agreeing_checkpoint(MODEL, checkpoint)
    return checkpoint


@pytest.fixture(scope="session")
def agreeing_mtp_server(folder, agreeing):
    with running(agreeing, folder / "agreeing.log", *MTP) as started:
        yield started


@pytest.fixture(scope="session")
def transformers_model():
    return TransformersModel(MODEL)


@pytest.fixture(scope="session")
def llama_model(folder):
    write_gguf(MODEL, folder / "demo.gguf")
    model = LlamaProcess(folder / "demo.gguf", VOCABULARY)
    yield model
    model.close()
