"""Sessions are listed by where they are and by their labels, a page at a time."""

import pytest
import redis

from agent_runtime.sessions import listing
from agent_runtime.wire.turns import TurnRequest
from state_store.layout import LineageKeys, lineage_of

NEWEST = "/v1/sessions?limit=10"


async def listed(http, query):
    """Ids of every page, and how many pages there were."""
    found, pages, path = [], 0, f"/v1/sessions?{query}"
    while path is not None:
        answer = await http.get(path)
        assert answer.status_code == 200, answer.text
        found += [row["id"] for row in answer.json()]
        pages, path = pages + 1, answer.links.get("next", {}).get("url")
    return found, pages


@pytest.fixture
async def made(http, session):
    """Ids of ten sessions, newest first; every other one is of team a, two are of env x."""
    ids = []
    for n in range(10):
        labels = {"team": "a" if n % 2 else "b =c&d", **({"env": "x"} if n > 7 else {})}
        ids.insert(0, (await session(labels=labels)).json()["id"])
    yield ids
    for session_id in ids:
        await http.delete(f"/v1/sessions/{session_id}")


async def test_a_list_shows_each_session_as_it_is_shown_alone(app, http, made, turn):
    for one in made[:4]:
        await turn(one)
    await http.post(f"/v1/sessions/{made[1]}/rewind", json={"turns": 1})
    store = app.state.store
    asked = TurnRequest.model_validate({"messages": [{"role": "user", "content": "Hello."}]})
    begun = [(await store.session(made[n]), {"owner": "me", "key": None}) for n in (0, 2, 5)]
    records = app.state.turns.records
    for session, fields in begun:
        await records.write(session, records.new(session, asked, **fields))
    lease = await store.acquire(made[0], ttl=30, owner="me")
    rows = (await http.get(NEWEST)).json()
    assert [row["id"] for row in rows] == made
    assert rows == [(await http.get(f"/v1/sessions/{one}")).json() for one in made]
    states = [row["turn"] and row["turn"]["state"] for row in rows]
    assert states == ["running", None, "interrupted", *[None] * 2, "interrupted", *[None] * 4]
    await store.release(lease)


@pytest.mark.parametrize("damage", ["lost", "unreadable"])
async def test_a_head_that_cannot_be_read_keeps_nobody_from_the_others(
    http, made, turn, bare_store, damage, caplog
):
    heads = {one: (await turn(one))["snapshot"] for one in made[:3]}
    record = LineageKeys("torpor", lineage_of(made[1])).snapshot(heads[made[1]])
    with redis.Redis.from_url(bare_store.url) as raw:
        if damage == "lost":
            raw.delete(record)
        else:
            raw.hset(record, "body", "?")
    rows = (await http.get(NEWEST)).json()
    assert [row["id"] for row in rows][:9] == [made[0], *made[2:]]
    assert f"{made[1]} is left out of a list: " in caplog.text


async def test_a_page_takes_few_commands(app, http, made, turn, bare_store):
    for one in made:
        await turn(one)
    with redis.Redis.from_url(bare_store.url) as raw:

        def commands():
            stats = raw.info("commandstats").items()
            return sum(one["calls"] for name, one in stats if name != "cmdstat_info")

        before = commands()
        assert len((await http.get(NEWEST)).json()) == len(made)
        # Of each its record, its head, and once its history, by a script; the rest together.
        assert commands() - before <= 4 * len(made) + 8
        before = commands()
        assert len((await http.get(NEWEST)).json()) == len(made)
        assert commands() - before <= 2 * len(made) + 8


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_by_labels(http, made, limit):
    assert await listed(http, f"label=team=a&limit={limit}") == (made[::2], max(1, -(-5 // limit)))
    found, _ = await listed(http, f"label=team=b%20%3Dc%26d&limit={limit}")
    assert found == made[1::2]
    assert (await listed(http, f"label=team=a&label=env=x&limit={limit}"))[0] == made[:1]
    assert (await listed(http, f"label=team=z&limit={limit}"))[0] == []


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_by_residency(http, made, limit):
    found, _ = await listed(http, f"residency=none&limit={limit}")
    assert [one for one in found if one in made] == made
    assert (await listed(http, f"residency=archived&limit={limit}"))[0] == []
    found, _ = await listed(http, f"residency=none&label=env=x&limit={limit}")
    assert found == made[:2]


async def test_a_page_looks_at_a_bounded_number_of_sessions(http, made, monkeypatch):
    monkeypatch.setattr(listing, "_LOOKED_AT", 4)
    monkeypatch.setattr(listing, "_AT_ONCE", 1)
    found, pages = await listed(http, "residency=archived&limit=3")
    assert (found, pages >= 3) == ([], True)
    found, _ = await listed(http, "residency=none&limit=3")
    assert [one for one in found if one in made] == made


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("residency=elsewhere", 422),
        ("label=team", 400),
        ("label=team=a&label=team=b", 400),
        ("label==a", 400),
        ("after=nan,ses-1", 400),
        ("after=inf,ses-1", 400),
    ],
)
async def test_what_is_no_filter_is_refused(http, query, status):
    assert (await http.get(f"/v1/sessions?{query}")).status_code == status


async def test_labels_are_replaced_and_found_by_at_once(http, made):
    path = f"/v1/sessions/{made[3]}"
    answer = await http.put(f"{path}/labels", json={"labels": {"team": "moved", "done": "1"}})
    assert answer.json() == (await http.get(path)).json()
    assert answer.json()["labels"] == {"team": "moved", "done": "1"}
    assert (await listed(http, "label=team=moved&label=done=1"))[0] == [made[3]]
    assert made[3] not in (await listed(http, "label=team=b%20%3Dc%26d"))[0]
    assert (await http.put(f"{path}/labels", json={"labels": {}})).json()["labels"] == {}
    assert (await listed(http, "label=done=1"))[0] == []
    refused = await http.put(f"{path}/labels", json={"labels": {"a b": "x"}})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_labels")
    assert (await http.put(f"{path}/labels", json={})).status_code == 422
