"""A durability level that there is none of is refused before anything is generated."""

import httpx
import pytest

from tests.backends.scripted import says

SAID = [{"role": "user", "content": "Hi"}]
NO_LEVELS = ["fsnyc", "replicated:0", "replicated:1e3", "replicated:1000", "memory\n", ""]


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as client:
        yield client


@pytest.fixture
async def session(http):
    session = (await http.post("/v1/sessions", json={})).json()
    yield session["id"]
    await http.delete(f"/v1/sessions/{session['id']}")


@pytest.mark.parametrize("level", NO_LEVELS)
async def test_it_is_refused_at_every_door(http, session, said, level):
    ours = {"model": "scripted", "torpor": {"durability": level}}
    for path, body in [
        (f"/v1/sessions/{session}/turns", {"messages": SAID, "durability": level}),
        (f"/v1/sessions/{session}/suspend", {"durability": level}),
        (f"/v1/sessions/{session}/persist", {"durability": level}),
        ("/v1/converse", {"messages": SAID, "durability": level}),
        ("/v1/chat/completions", {"messages": SAID} | ours),
        ("/v1/responses", {"input": "Hi"} | ours),
    ]:
        refused = await http.post(path, json=body)
        assert refused.status_code in (400, 422), path
        assert "durability" in refused.text
    assert not said.seen


@pytest.mark.parametrize("level", ["memory", "fsync"])
async def test_a_level_is_taken_and_told(http, session, said, level):
    said.scripted.append(says({"content": "Hello."}))
    body = {"messages": SAID, "durability": level}
    answer = await http.post(f"/v1/sessions/{session}/turns", json=body)
    assert f'"durable":"{level}"' in answer.text.replace(": ", ":")
