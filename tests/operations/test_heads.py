"""`HEAD`, which load balancers and downloads ask first."""

import pytest

SAME = ("content-type", "content-length", "etag")


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/console", "/openapi.json", "/v1/sessions", "/nothing"]
)
async def test_a_head_is_what_a_get_begins_with(http, path):
    whole, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert [head.headers.get(name) for name in SAME] == [whole.headers.get(name) for name in SAME]


async def test_a_head_of_a_stream_ends(http):
    session = (await http.post("/v1/sessions", json={})).json()["id"]
    head = await http.head(f"/v1/sessions/{session}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_a_head_of_what_nobody_can_get_is_refused_as_a_get_is(http):
    assert (await http.head("/v1/converse")).status_code == 405


async def test_a_head_is_counted_by_its_route(http):
    await http.head("/health")
    counts = (await http.get("/metrics")).text
    assert any('"HEAD"' in line and '"/health"' in line for line in counts.splitlines())
