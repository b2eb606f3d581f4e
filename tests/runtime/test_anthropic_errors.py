"""What goes wrong on Anthropic's routes is told in Anthropic's form, wherever it is noticed."""

import httpx
import pytest

from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from state_store.embedded import EmbeddedServer
from tests.engine_cpu.server import MODEL

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def bare_store(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("anthropic")) as server:
        yield server


@pytest.fixture
async def service(bare_store):
    """The service in this process, over a store without engines. Yields a maker of clients."""
    apps = {
        keyed: create_app(
            RuntimeSettings(
                redis_url=bare_store.url,
                model_dir=MODEL,
                require_keys=keyed,
                allowed_hosts="alone",
            )
        )
        for keyed in (False, True)
    }

    def client(*, keyed=False):
        transport = httpx.ASGITransport(apps[keyed], raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://alone")

    async with (
        apps[False].router.lifespan_context(apps[False]),
        apps[True].router.lifespan_context(apps[True]),
    ):
        yield client


@pytest.mark.parametrize(
    ("sent", "status", "kind", "code"),
    [
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415,
         "invalid_request_error", "unsupported_media_type"),
        ({"content": b'{"a": "\xff"}', "headers": JSON}, 400,
         "invalid_request_error", "malformed_body"),
        ({"content": b"[" * 100 + b"]" * 100, "headers": JSON}, 400,
         "invalid_request_error", "too_deep"),
    ],
)  # fmt: skip
async def test_what_is_refused_before_any_route_is_told_so(service, sent, status, kind, code):
    async with service() as http:
        answer = await http.post("/v1/messages", **sent)
    error = answer.json()
    assert (answer.status_code, error["type"]) == (status, "error")
    assert (error["error"]["type"], error["error"]["details"]) == (kind, {"error_code": code})
    assert error["error"]["message"]
    assert error["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_who_sends_no_key_is_told_so(service):
    async with service(keyed=True) as http:
        answer = await http.post("/v1/messages", json={})
        other = await http.post("/v1/sessions", json={})
    assert answer.status_code == other.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert other.json()["code"] == "unauthorized"  # other routes have their own form


async def test_a_path_that_is_none_is_told_so(service):
    async with service() as http:
        answer = await http.get("/v1/messages/nowhere")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_options_that_exclude_each_other_are_the_clients_mistake(service):
    request = {
        "model": "demo",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "tools": [{"name": "add", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }
    async with service() as http:
        request["model"] = (await http.get("/v1/models")).json()["data"][0]["id"]
        answer = await http.post(
            "/v1/messages", json=request, headers={"anthropic-version": "2023-06-01"}
        )
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "must be calls" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "asked", "why"),
    [
        ("", {"thinking": {"type": "enabled", "budget_tokens": 2000},
              "torpor": {"thinking_tokens": 50}}, "both say how much is thought"),
        ("/count_tokens", {"output_config": {"effort": "high"},
                           "torpor": {"template": {"enable_thinking": False}}},
         "asks the chat template for enable_thinking=True"),
    ],
)  # fmt: skip
async def test_two_answers_to_how_much_is_thought_are_the_clients_mistake(
    service, path, asked, why
):
    said = [{"role": "user", "content": "What is 2 + 2?"}]
    room = {} if path else {"max_tokens": 4000}
    async with service() as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        answer = await http.post(
            f"/v1/messages{path}",
            json={"model": model, "messages": said, **room, **asked},
            headers={"anthropic-version": "2023-06-01"},
        )
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert why in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x/y"])
async def test_what_no_route_of_the_models_answers_is_told_to_either_client_so(service, path):
    version = {"anthropic-version": "2023-06-01"}
    async with service(keyed=True) as keyed, service() as http:
        unknown = await keyed.get(path, headers=version | {"x-api-key": "bad"})
        other_unknown = await keyed.get(path, headers={"x-api-key": "bad"})
        refused = await http.put(path, headers=version)
        body = await http.put(path, headers=version, content="x")
    for answer, kind in (
        (unknown, "authentication_error"),
        (refused, "invalid_request_error"),
        (body, "invalid_request_error"),
    ):
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)
        assert answer.json()["request_id"] == answer.headers["request-id"]
    assert other_unknown.json()["error"]["code"] == "invalid_api_key"
