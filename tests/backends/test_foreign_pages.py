"""A service without keys is not used by pages that a browser on its machine shows."""

import httpx
import pytest

from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings, ServiceSettings
from engine.backends.settings import BackendSettings

FOREIGN = "evil.example"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ROUTES = [
    ("GET", "/v1/sessions", None),
    ("POST", "/v1/sessions", {}),
    ("DELETE", "/v1/sessions/ses-0123456789abcdef-0123456789abcdef", None),
    ("POST", "/v1/chat/completions", {"messages": []}),
    ("POST", "/mcp", CALL),
    ("GET", "/health", None),
    ("GET", "/openapi.json", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_it_answers_to_no_foreign_name_and_no_foreign_page(chat_service, method, path, body):
    port = chat_service.url.rpartition(":")[2]
    for headers, status in (
        ({"Host": f"{FOREIGN}:{port}", "Origin": f"http://{FOREIGN}:{port}"}, 421),
        ({"Host": FOREIGN}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Origin": f"https://{FOREIGN}"}, 403),
        ({"Origin": "null"}, 403),
    ):
        answer = httpx.request(method, chat_service.url + path, json=body, headers=headers)
        assert answer.status_code == status, (headers, answer.text)
    with httpx.Client(base_url=chat_service.url) as local:
        assert local.get("/v1/sessions", headers={"Origin": chat_service.url}).status_code == 200
        assert local.get("/v1/sessions", headers={"Host": f"LocalHost:{port}"}).status_code == 200
        accepted = {"Accept": "application/json, text/event-stream"}
        assert local.post("/mcp", json=CALL, headers=accepted).status_code == 200


@pytest.fixture
def client():
    """Makes clients of services inside this process. None of them has a store."""

    def made(kind=RuntimeSettings, **given):
        backend = BackendSettings(url="http://nowhere/v1", model="m")
        app = create_app(kind(redis_url="redis://nowhere", backend=backend, **given))
        return httpx.AsyncClient(transport=httpx.ASGITransport(app))

    return made


async def asked(client, host):
    async with client:
        origin = {"Origin": f"https://{host}"}
        return (await client.get(f"http://{host}/openapi.json", headers=origin)).status_code


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("torpor.lan:8700", 200),
        ("other", 200),
        ("127.0.0.2", 200),
        ("[::1]:8700", 200),
        (FOREIGN, 421),
    ],
)
async def test_more_hosts_can_be_allowed(client, host, status):
    hosts = {"host": "127.0.0.2", "allowed_hosts": "torpor.lan, Other"}
    assert await asked(client(ServiceSettings, **hosts), host) == status


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), (FOREIGN, 421)])
async def test_a_service_that_is_a_part_of_another_program_does_the_same(client, host, status):
    assert await asked(client(), host) == status


async def test_a_service_with_keys_answers_to_any_name(client):
    assert await asked(client(require_keys=True), FOREIGN) == 401
