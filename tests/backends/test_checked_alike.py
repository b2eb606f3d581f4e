"""Whichever protocol a request comes by, the same is refused and the same is taken."""

import httpx
import pytest

from tests.backends.scripted import says

USER = [{"role": "user", "content": "Hello."}]
THEIRS = {"anthropic-version": "2023-06-01"}
DOORS = ("/v1/sessions", "/v1/converse", "/v1/chat/completions", "/v1/responses", "/v1/messages")


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://scripted", headers=THEIRS
    ) as client:
        yield client


def request_of(door, *names, **more):
    """A request that declares tools of these names."""
    schema = {"type": "object", "properties": {}}
    plain = [{"name": name, "description": "x", "parameters": schema} for name in names]
    model = {"model": "scripted"} | more
    return {
        "/v1/sessions": {"tools": plain},
        "/v1/converse": {"messages": USER, "tools": plain},
        "/v1/chat/completions": model
        | {
            "messages": USER,
            "tools": [{"type": "function", "function": tool} for tool in plain],
        },
        "/v1/responses": model
        | {"input": "Hello.", "tools": [{"type": "function"} | tool for tool in plain]},
        "/v1/messages": {"max_tokens": 9}
        | model
        | {
            "messages": USER,
            "tools": [{"name": name, "input_schema": schema} for name in names],
        },
    }[door]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["", "a b", "a\n", "a b\n<tool>", "a" * 129])
async def test_a_name_that_a_call_cannot_have_is_refused(http, door, name):
    refused = await http.post(door, json=request_of(door, name))
    assert refused.status_code in (400, 422), refused.text
    assert "name" in refused.text


@pytest.mark.parametrize("door", DOORS)
async def test_two_tools_of_one_name_are_refused(http, door):
    refused = await http.post(door, json=request_of(door, "a", "b", "a"))
    assert refused.status_code in (400, 422), refused.text
    assert "two tools are called 'a'" in refused.text
    if door in ("/v1/chat/completions", "/v1/responses"):
        assert refused.json()["error"]["param"] == "tools"


async def test_names_of_other_alphabets_and_of_servers_are_taken(http):
    for names in (("größe", "files.read", "a/b:c-d_e"), ()):
        made = await http.post("/v1/sessions", json=request_of("/v1/sessions", *names))
        assert made.status_code == 201


@pytest.mark.parametrize(
    ("door", "field", "value"),
    [
        ("/v1/messages", "max_tokens", "16"),
        ("/v1/messages", "temperature", "0"),
        ("/v1/messages", "stream", "true"),
        ("/v1/messages", "stream", 1),
        ("/v1/responses", "max_output_tokens", "16"),
        ("/v1/responses", "temperature", "0"),
        ("/v1/responses", "stream", "true"),
        ("/v1/responses", "parallel_tool_calls", 1),
        ("/v1/chat/completions", "max_tokens", "16"),
    ],
)
async def test_a_text_is_no_number_and_no_truth_value(http, door, field, value):
    refused = await http.post(door, json=request_of(door, "a", **{field: value}))
    assert refused.status_code == 400, refused.text
    assert field in refused.text


async def test_whole_numbers_are_numbers(http, said):
    said.scripted.append(says({"content": "ok"}))
    body = request_of("/v1/messages", "a", temperature=0, top_p=1)
    assert (await http.post("/v1/messages", json=body)).status_code == 200


async def test_metadata_may_be_what_openai_takes(http, said):
    said.scripted.append(says({"content": "ok"}))
    metadata = {"team": "search-42", "user id": "Zoë", "k" * 64: "v" * 512, "": "two\nlines"}
    body = {"model": "scripted", "messages": USER, "metadata": metadata}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    session_id = answer.json()["choices"][0]["torpor"]["session"]
    assert (await http.get(f"/v1/sessions/{session_id}")).json()["labels"] == {"team": "search-42"}


@pytest.mark.parametrize(
    "metadata", [{"k" * 65: "v"}, {"k": "v" * 513}, {str(n): "" for n in range(17)}]
)
async def test_more_than_openai_takes_is_refused(http, metadata):
    body = {"model": "scripted", "messages": USER, "metadata": metadata}
    refused = await http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("metadata")
