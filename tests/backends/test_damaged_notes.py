"""What was noted of requests is damaged in the store: it is told as that, or done without."""

import httpx
import pytest

from tests.backends.scripted import says

DAMAGED = (b"\xc1\x00garbage", b"{}", b"\x93\x01\x02\x03")
OVERWRITE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' then redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL') end
if kind == 'list' then redis.call('LSET', KEYS[1], 0, ARGV[1]) end
if kind == 'hash' then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    redis.call('HSET', KEYS[1], field, ARGV[1])
  end
end
"""


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as client:
        yield client


@pytest.mark.parametrize("damaged", DAMAGED)
async def test_a_damaged_note_is_told_as_that_and_stops_no_conversation(
    http, scripted_app, said, damaged
):
    said.scripted += [says({"content": "Yes."})] * 4
    redis = scripted_app.state.store._control.redis
    before = {key async for key in redis.scan_iter("*", count=1000)}
    user = {"role": "user", "content": "one"}
    session = (await http.post("/v1/sessions", json={})).json()["id"]
    records = {key async for key in redis.scan_iter("*", count=1000)}
    turn = {"json": {"messages": [user]}, "headers": {"Idempotency-Key": f"t{session}"}}
    fork = {"json": {}, "headers": {"Idempotency-Key": f"f{session}"}}
    await http.post(f"/v1/sessions/{session}/turns", **turn)
    await http.post(f"/v1/sessions/{session}/fork", **fork)
    answer = await http.post("/v1/responses", json={"model": "scripted", "input": session})
    response = answer.json()["id"]
    opening = {"role": "user", "content": session}
    await http.post("/v1/converse", json={"messages": [opening]})
    await http.post(f"/v1/items/{session}", json={"items": [1]})
    words = (":note:", ":attachments:", ":items:")
    async for key in redis.scan_iter("*", count=1000):
        if key not in before | records and any(word in key.decode() for word in words):
            await redis.eval(OVERWRITE, 1, key, damaged)
    for path, options in (("turns", turn), ("fork", fork)):
        again = await http.post(f"/v1/sessions/{session}/{path}", **options)
        assert again.json()["code"] == "corrupt_object"
    items = (await http.get(f"/v1/items/{session}")).json()
    assert items.get("code") == "corrupt_object" or damaged == b"{}"  # which is an item
    assert (await http.get(f"/v1/responses/{response}")).status_code == 404
    assert (await http.get("/v1/sessions")).status_code == 200
    going_on = [opening, {"role": "assistant", "content": "Yes."}, user]
    answered = await http.post("/v1/converse", json={"messages": going_on})
    assert "event: result" in answered.text
