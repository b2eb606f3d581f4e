"""A request with many flaws is told of some of them."""

import httpx
import pytest


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as client:
        yield client


MANY = [0] * 10_000
MODEL = {"model": "scripted"}
SAID = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("path", "body", "first"),
    [
        ("/v1/converse", {"messages": MANY}, "messages[0]"),
        ("/v1/converse", {"messages": [SAID | {"tool_calls": MANY}]}, "messages[0].tool_calls[0]"),
        ("/v1/sessions", {"tools": MANY}, "tools[0]"),
        ("/v1/chat/completions", MODEL | {"messages": MANY}, "messages[0]"),
        ("/v1/responses", MODEL | {"input": MANY}, "input"),
        ("/v1/items/x", {"items": [*MANY, 0]}, "items"),
    ],
)
async def test_a_list_is_read_up_to_its_first_flaw(http, path, body, first):
    refused = await http.post(path, json=body)
    assert refused.status_code in (400, 422)
    told = refused.json()
    assert told.get("error", told)["param"].startswith(first)
    assert len(refused.content) < 2000


WIDE = dict.fromkeys(map(str, range(10_000)), None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/sessions", WIDE),
        ("/v1/sessions", {"labels": WIDE}),
        ("/v1/sessions", {"template": WIDE}),
        ("/v1/sessions", {"tools": [WIDE]}),
        ("/v1/converse", {"messages": [WIDE]}),
        ("/v1/converse", {"messages": [SAID | {"tool_calls": [WIDE]}]}),
        ("/v1/converse", {"messages": [], "labels": WIDE}),
        ("/v1/chat/completions", MODEL | {"messages": [WIDE]}),
        ("/v1/chat/completions", MODEL | {"messages": [], "chat_template_kwargs": WIDE}),
        ("/v1/chat/completions", MODEL | {"messages": [], "torpor": {"template": WIDE}}),
        ("/v1/chat/completions", MODEL | {"messages": [], "metadata": WIDE}),
        ("/v1/responses", MODEL | {"input": "x", "text": WIDE}),
        ("/v1/conversations", {"metadata": WIDE}),
        ("/v1/items/x", WIDE),
        ("/v1/messages", MODEL | {"messages": [], "output_config": WIDE}),
    ],
)
async def test_an_object_of_many_flaws_is_refused_for_its_size(http, path, body):
    refused = await http.post(path, json=body, headers={"anthropic-version": "2023-06-01"})
    assert refused.status_code in (400, 422)
    assert "it has 10000 fields" in refused.text
    assert " more" not in refused.text


async def test_of_many_flaws_twenty_are_told(http):
    refused = await http.post("/v1/sessions", json=dict.fromkeys(map(str, range(100)), 0))
    assert refused.status_code == 422
    *told, rest = refused.json()["detail"].split("; ")
    assert (len(told), rest) == (20, "and 80 more")


async def test_as_many_items_as_may_be_added_at_once_are(http):
    assert (await http.post("/v1/items/many", json={"items": MANY})).status_code == 204
    assert (await http.get("/v1/items/many")).json() == {"items": MANY}
    await http.delete("/v1/items/many")


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/sessions?labels=a%3Db", "labels"),
        ("GET", "/v1/sessions?limit=1&foo=1", "foo"),
        ("GET", "/v1/sessions/ses-0-0?lineage=true", "lineage"),
        ("POST", "/v1/sessions?label=a%3Db", "label"),
        ("DELETE", "/v1/items/x?all=1", "all"),
    ],
)
async def test_a_query_parameter_that_is_not_known_is_refused(http, method, path, name):
    refused = await http.request(method, path)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["param"] == name
    assert "Nothing was done" in refused.json()["detail"]


async def test_known_query_parameters_and_those_of_other_protocols_are_taken(http):
    for path in (
        "/v1/sessions?limit=1&residency=stored&label=a%3Db",
        "/v1/models?beta=true",
        "/health?cause=probe",
    ):
        assert (await http.get(path)).status_code == 200, path
