"""State that another engine would have stored, in the place of ours, never gets to the device."""

import httpx
import pytest
import redis
from engine_cpu.server import MODEL, PAGE_SIZE

from engine.errors import NoEngine
from engine.pool import EnginePool
from state_store.codec import HEADER_BYTES, Frame, seal
from state_store.fingerprint import Fingerprint
from state_store.layout import ObjectNames, ObjectRef
from state_store.store import StateStore

from .linked import ask, chain, linked, make_ready, random_tokens, stored_pages

PROMPT = random_tokens(7, 5 * PAGE_SIZE + 20)
FOREIGN = {
    "another checkpoint": {"weights": "0" * 64},
    "another architecture": {"architecture": "0" * 64},
    "another tokenizer": {"tokenizer": "0" * 64},
    "another page size": {"page_size": 2 * PAGE_SIZE},
    "other dtypes of KV": {"kv_dtype": "bfloat16"},
    "two ranks": {"tp_size": 2},
    "with a draft model": {"draft": "mtp:1"},
    "another SGLang": {"engine": "sglang 0.5.22, state format 1"},
}


@pytest.fixture(scope="module")
def server(folder, store_server):
    with linked(MODEL, folder, store_server.url) as server:
        yield server


@pytest.fixture
async def stored(engine):
    """The answer of an engine that computed everything, and the pages stored of its prompt."""
    await engine.client.flush()
    answer = await ask(engine, PROMPT)
    pages = await stored_pages(engine, PROMPT)
    await engine.client.flush()
    return answer, chain(engine, PROMPT)[:pages]


async def loaded(engine):
    return [rank["objects_loaded"] for rank in await engine.status()]


def as_if_stored_by(store_server, names, engine, kind, page_hash):
    """Seal one of our objects again under the names of another engine or rank."""
    ref = ObjectRef(kind, page_hash)
    key = ObjectNames("torpor", engine.record.fingerprint.id, 0).key(ref)
    with redis.Redis(unix_socket_path=store_server.url.removeprefix("unix://")) as client:
        value = memoryview(bytearray(client.get(key)))
        seal(Frame(value[:HEADER_BYTES], value[HEADER_BYTES:]), names=names, ref=ref)
        client.set(key, bytes(value))


@pytest.mark.parametrize("other", FOREIGN)
async def test_a_state_of_another_engine_is_refused(engine, stored, store_server, other):
    answer, hashes = stored
    fingerprint = engine.record.fingerprint.model_dump(mode="json") | FOREIGN[other]
    names = ObjectNames("torpor", Fingerprint.model_validate(fingerprint).id, 0)
    as_if_stored_by(store_server, names, engine, "state", hashes[-1])
    await assert_refused_and_recomputed(engine, answer, hashes, "1 corrupt state refused")


async def test_the_share_of_another_rank_is_refused(engine, stored, store_server):
    answer, hashes = stored
    names = ObjectNames("torpor", engine.record.fingerprint.id, 1)
    as_if_stored_by(store_server, names, engine, "kv", hashes[0])
    await assert_refused_and_recomputed(engine, answer, hashes, "1 corrupt KV pages refused")


async def assert_refused_and_recomputed(engine, answer, hashes, reason):
    before = await loaded(engine)
    found = await make_ready(engine, PROMPT[: len(hashes) * PAGE_SIZE])
    assert found.reason == reason
    again = await ask(engine, PROMPT)
    assert again.ids == answer.ids
    assert again.cached == 0
    assert await loaded(engine) == before


@pytest.mark.parametrize("other", FOREIGN)
async def test_a_session_of_another_engine_finds_none_that_fits(
    engine, server, store_server, other
):
    fingerprint = engine.record.fingerprint.model_dump(mode="json") | FOREIGN[other]
    wanted = Fingerprint.model_validate(fingerprint).id
    async with await StateStore.connect(store_server.url) as store:
        pool = EnginePool(store)
        with pytest.raises(NoEngine, match=wanted):
            await pool.pick(wanted)
        await pool.close()


CHANGES = {
    "begin_weight_update": {},
    "update_weights_from_disk": {"model_path": str(MODEL), "abort_all_requests": True},
    "update_weights_from_distributed": {"names": [], "dtypes": [], "shapes": []},
    "update_weights_from_ipc": {"zmq_handles": {}},
    "update_weights_from_tensor": {"serialized_named_tensors": []},
    "weights_checker": {"action": "reset_tensors"},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_an_engine_does_not_become_another_while_it_runs(server, stored, engine, change):
    answer, _ = stored
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        refused = await client.post(f"/{change}", json=CHANGES[change], timeout=60)
    assert refused.status_code == 400
    assert "cannot be changed while it runs" in refused.json()["message"]
    assert (await ask(engine, PROMPT, restore=False)).ids == answer.ids
