"""Sessions of an encrypted tenant that an endpoint answers: their messages are sealed."""

import secrets

import httpx
import pytest

from state_store.embedded import EmbeddedServer
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault
from tests.backends.scripted import call, client_of, says, scripted_runtime
from tests.runtime.dumps import dumped, files_of, holding

KEY = "TORPOR_TEST_MASTER_KEY"
TOOL = {"name": "pay", "description": "Pays.", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def server(tmp_path):
    """Whose files nothing else is in."""
    with EmbeddedServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
async def vaulted(server, monkeypatch):
    master = MasterKey(secrets.token_bytes(32))
    monkeypatch.setenv(KEY, master.reveal().hex())
    async with await StateStore.connect(server.url, vault=Vault([master])) as store:
        await store.create_tenant("ann", encrypted=True)
        yield store


async def test_nothing_that_was_said_is_in_the_store_or_its_files(server, vaulted, said):
    canary = secrets.token_hex(12)
    reply = says({"content": f"Ann said {canary}."})
    given = {"tenant": "ann", "master_key_source": f"env:{KEY}"}
    async with scripted_runtime(server.url, said, **given) as app, client_of(app) as client:
        said.scripted += [reply] * 3
        first = await client.responses.create(model="scripted", input=f"Say {canary}.")
        later = await client.responses.create(
            model="scripted", input=canary, background=True, previous_response_id=first.id
        )
        while later.status in ("queued", "in_progress"):
            later = await client.responses.retrieve(later.id)
        assert canary in later.output_text
        await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": canary}]
        )
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://scripted")
        async with http:
            made = await http.post(
                "/v1/sessions",
                json={"system": canary, "stateless": True, "tools": [TOOL]},
                headers={"Idempotency-Key": canary},
            )
            session = made.json()["id"]
            said.scripted += [says(call("pay", "c1", to=canary), finish="tool_calls")]
            turn = {"messages": [{"role": "user", "content": canary}]}
            answered = await http.post(
                f"/v1/sessions/{session}/turns", json=turn, headers={"Idempotency-Key": "k"}
            )
            assert canary in answered.text
            await http.post(f"/v1/items/{canary}", json={"items": [canary]})
            shown = await http.get(f"/v1/sessions/{session}/messages")
            assert canary in shown.text
            gone = await http.get(f"/v1/items/{canary}")
            assert gone.json() == {"items": [canary]}
        assert holding(await dumped(server.url), canary.encode()) == []
        written = b"".join(files_of(f"file://{server.data_dir}").values())
        assert canary.encode() not in written
        assert b"ses-" in written  # it is the log of what was stored
        assert (await vaulted.check_integrity()).problems == []


async def test_a_runtime_without_the_key_refuses_the_tenant_by_name(server, vaulted, said):
    async with scripted_runtime(server.url, said, tenant="ann") as app:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://scripted")
        async with http:
            for asked in (
                http.post("/v1/sessions", json={"stateless": True}),
                http.post("/v1/items/talk", json={"items": [1]}),
                http.get("/v1/items/talk"),
            ):
                refused = (await asked).json()
                assert (refused["code"], refused["status"]) == ("vault_locked", 503)
                assert "tenant ann is encrypted under master key" in refused["detail"]
    assert said.seen == []
