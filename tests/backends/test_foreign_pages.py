"""A service without keys is not used by pages that a browser on its machine shows."""

import httpx
import pytest

from agent_runtime.service.hosts import Hosts
from agent_runtime.settings import ServiceSettings

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


async def test_more_hosts_can_be_allowed():
    given = {"redis_url": "redis://x", "model_dir": "models/demo", "host": "127.0.0.2"}
    settings = ServiceSettings.model_validate({**given, "allowed_hosts": "torpor.lan, Other"})

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    transport = httpx.ASGITransport(Hosts(app, settings.answers_to))
    async with httpx.AsyncClient(transport=transport) as client:
        for host in ("torpor.lan:8700", "other", "127.0.0.2", "[::1]:8700"):
            headers = {"Origin": f"https://{host}"}
            assert (await client.get(f"http://{host}/", headers=headers)).status_code == 204
        assert (await client.get("http://another/")).status_code == 421
