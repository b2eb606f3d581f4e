"""Snapshots are looked at, labelled and found without a way through their session."""

import httpx
import pytest

from agent_runtime.sdk import Torpor
from tests.runtime.served import listening as serving

NEVER = "snp-0123456789abcdef-0123456789abcdef"


async def test_a_snapshot_is_named_found_and_forked_from(http, session, turn):
    session_id = (await session()).json()["id"]
    first, second = [(await turn(session_id))["snapshot"] for _ in range(2)]
    named = {"labels": {"name": "before the refactoring"}}
    answer = await http.put(f"/v1/snapshots/{first}/labels", json=named)
    assert answer.status_code == 200, answer.text
    assert answer.json()["labels"] == named["labels"]
    assert answer.json() == (await http.get(f"/v1/snapshots/{first}")).json()
    found = await http.get("/v1/snapshots", params={"label": "name=before the refactoring"})
    assert found.json() == [answer.json()]
    history = (await http.get(f"/v1/sessions/{session_id}/snapshots")).json()
    assert [one["labels"] for one in history] == [{}, named["labels"]]
    assert (await http.get(f"/v1/snapshots/{second}")).json() == history[0]
    fork = await http.post(f"/v1/sessions/{session_id}/fork", json={"snapshot": first})
    assert fork.json()["head"] == first
    await http.put(f"/v1/snapshots/{first}/labels", json={"labels": {}})
    assert (await http.get("/v1/snapshots?label=name=before the refactoring")).json() == []
    for one in (session_id, fork.json()["id"]):
        await http.delete(f"/v1/sessions/{one}")
    assert (await http.get(f"/v1/snapshots/{first}")).status_code == 404


async def test_labelled_snapshots_are_found_a_page_at_a_time(http, session, turn):
    session_id = (await session()).json()["id"]
    made = [(await turn(session_id))["snapshot"] for _ in range(5)]
    for one in made:
        await http.put(f"/v1/snapshots/{one}/labels", json={"labels": {"of": session_id}})
    path, pages = f"/v1/snapshots?label=of={session_id}&limit=2", []
    while path is not None:
        answer = await http.get(path)
        pages.append([one["id"] for one in answer.json()])
        path = answer.links.get("next", {}).get("url")
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]
    whole = await http.get(f"/v1/snapshots?label=of={session_id}")
    assert [one["id"] for one in whole.json()] == made[::-1]
    await http.delete(f"/v1/sessions/{session_id}")


async def test_a_history_is_read_a_page_at_a_time(http, session, turn):
    session_id = (await session()).json()["id"]
    path = f"/v1/sessions/{session_id}/snapshots"
    assert (await http.get(path)).json() == []
    made = [(await turn(session_id))["snapshot"] for _ in range(5)]
    first = await http.get(path, params={"limit": 2})
    await turn(session_id)  # the next page is what it was
    second = await http.get(first.links["next"]["url"])
    last = await http.get(second.links["next"]["url"])
    pages = [[one["id"] for one in page.json()] for page in (first, second, last)]
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]
    assert "link" not in last.headers
    await http.post(f"/v1/sessions/{session_id}/rewind", json={"snapshot": made[0]})
    gone = await http.get(second.links["next"]["url"])
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    other = (await session()).json()["id"]
    foreign = await http.get(f"/v1/sessions/{other}/snapshots", params={"after": made[0]})
    assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")
    for one in (session_id, other):
        await http.delete(f"/v1/sessions/{one}")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v1/snapshots/{NEVER}", 404, "not_found"),
        ("PUT", f"/v1/snapshots/{NEVER}/labels", 404, "not_found"),
        ("GET", "/v1/snapshots/ses-0123456789abcdef-0123456789abcdef", 400, "invalid_id"),
        ("PUT", "/v1/snapshots/ses-0123456789abcdef-0123456789abcdef/labels", 400, "invalid_id"),
        ("GET", "/v1/snapshots", 400, "invalid_labels"),
        ("GET", "/v1/snapshots?label=name", 400, "bad_request"),
        ("GET", "/v1/snapshots?label=a=1&after=here", 400, "bad_request"),
        ("GET", "/v1/snapshots?label=a=1&limit=1001", 422, "invalid_request"),
    ],
)
async def test_what_is_no_snapshot_is_refused(http, method, path, status, code):
    body = {"labels": {"a": "1"}} if method == "PUT" else None
    answer = await http.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_another_tenants_snapshots_are_not_there(settings, store, script):
    keys = []
    for tenant in ("snap-ann", "snap-ben"):
        await store.tenant(tenant)
        keys.append({"Authorization": f"Bearer {(await store.keys.create(tenant))[1]}"})
    ann, ben = keys
    async with (
        serving(settings.model_copy(update={"require_keys": True})) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        session = (await http.post("/v1/sessions", json={}, headers=ann)).json()["id"]
        script("Yes.")
        said = {"messages": [{"role": "user", "content": "Hello."}]}
        await http.post(f"/v1/sessions/{session}/turns", json=said, headers=ann)
        head = (await http.get(f"/v1/sessions/{session}", headers=ann)).json()["head"]
        path, body = f"/v1/snapshots/{head}", {"labels": {"a": "1"}}
        assert (await http.put(f"{path}/labels", json=body, headers=ann)).status_code == 200
        assert (await http.put(f"{path}/labels", json=body, headers=ben)).status_code == 404
        assert (await http.get(path, headers=ben)).status_code == 404
        assert (await http.get("/v1/snapshots?label=a=1", headers=ben)).json() == []
        assert len((await http.get("/v1/snapshots?label=a=1", headers=ann)).json()) == 1


async def test_clients_label_and_find_sessions_and_snapshots(app, session, turn):
    async with Torpor("http://runtime", transport=httpx.ASGITransport(app)) as torpor:
        ids = [(await session()).json()["id"] for _ in range(3)]
        of = {"of": ids[0], "stage": "a b&c"}
        for one in ids:
            assert (await torpor.set_labels(one, of)).labels == of
        await torpor.set_labels(ids[1], {"of": ids[0]})
        assert [one.id async for one in torpor.sessions(labels=of, limit=1)] == [ids[2], ids[0]]
        made = [(await turn(ids[0]))["snapshot"] for _ in range(3)]
        for one in made:
            assert (await torpor.label_snapshot(one, of)).labels == of
        found = [one async for one in torpor.find_snapshots(of, limit=2)]
        assert [one.id for one in found] == made[::-1]
        assert await torpor.snapshot(made[0]) == found[-1]
        for one in ids:
            await torpor.delete(one)
