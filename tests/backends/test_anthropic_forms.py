"""What Anthropic's client reads besides messages: models, and why a block is not taken."""

import anthropic
import httpx
import pytest

from agent_runtime.anthropic_api.errors import told
from agent_runtime.wire.problems import Problem


@pytest.fixture
async def client(runtime):
    async with anthropic.AsyncAnthropic(
        base_url=runtime.url, api_key="none", max_retries=0
    ) as client:
        yield client


async def test_the_models_that_are_served_are_listed(client):
    page = await client.models.list()
    (model,) = page.data
    assert (model.type, model.id, model.display_name) == ("model", "demo", "demo")
    assert model.created_at.year > 2000
    assert (page.has_more, page.first_id, page.last_id) == (False, "demo", "demo")
    assert await client.models.retrieve("demo") == model


async def test_a_model_that_is_not_served_is_not_found(client):
    with pytest.raises(anthropic.NotFoundError) as refused:
        await client.models.retrieve("claude-9")
    assert refused.value.body["error"]["details"] == {"error_code": "model_not_found"}


@pytest.mark.parametrize(
    ("role", "block", "why"),
    [
        ("user", {"type": "image", "source": {}}, "'image': the models read text"),
        ("user", {"type": "document", "source": {}}, "'document': the models read text"),
        ("assistant", {"type": "redacted_thinking", "data": "x"}, "thinking is not encrypted"),
        ("assistant", {"type": "server_tool_use", "id": "x"}, "runs at Anthropic"),
        ("user", {"type": "web_search_tool_result", "content": []}, "runs at Anthropic"),
        ("user", {"type": "hologram"}, "there is no such block"),
        ("user", {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image"}]},
         "'image': the models read text"),
    ],
)  # fmt: skip
async def test_blocks_that_have_no_form_here_are_refused_by_name(client, role, block, why):
    said = [{"role": "user", "content": "Hello."}, {"role": role, "content": [block]}]
    with pytest.raises(anthropic.BadRequestError) as refused:
        await client.messages.create(model="demo", max_tokens=9, messages=said)
    message = refused.value.body["error"]["message"]
    assert why in message
    assert "valid string" not in message


def test_a_prompt_that_is_too_long_is_the_status_that_their_clients_know():
    full = Problem(title="x", status=413, code="context_full", detail="y")
    large = Problem(title="x", status=413, code="body_too_large", detail="y")
    assert told(full)[0] == 400
    assert told(full)[1]["error"]["type"] == "invalid_request_error"
    assert told(large)[0] == 413
    assert told(large)[1]["error"]["type"] == "request_too_large"


async def test_what_is_no_json_is_malformed(runtime):
    json = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=runtime.url) as http:
        answer = await http.post("/v1/sessions", content=b'{"system": ', headers=json)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")
        assert "param" not in answer.json()
        answer = await http.post("/v1/messages", content=b"{no}", headers=json)
        assert answer.status_code == 400
        assert answer.json()["error"]["details"] == {"error_code": "malformed_body"}
