"""A fork inside a turn that is asked for again with its key: made once, and never taken away."""

import asyncio
import gc
from array import array

import httpx
import pytest

from agent_runtime.errors import NotFound, StillRunning, TorporError
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import ConversationRequest
from engine.errors import EngineError
from state_store.errors import StoreUnavailable
from state_store.records import SnapshotDraft
from tests.results import turn_result
from tests.state_store.writer import FINGERPRINT, RANKS


async def commit(store, session_id, tokens):
    """A turn of so many tokens; its snapshot."""
    session = await store.session(session_id)
    before = (await store.snapshot(session.head)).total_tokens if session.head else 0
    lease = await store.acquire(session_id, ttl=30.0, owner="a test")
    draft = SnapshotDraft(
        session_id=session_id,
        parent=session.head,
        new_tokens=array("I", range(tokens)),
        total_tokens=before + tokens,
        boundary=0,
        boundary_hash=None,
        page_hashes=(),
        fingerprint_id=FINGERPRINT.id,
        ranks=RANKS,
        meta={"prompt_tokens": before + 1},
    )
    committed = await store.commit(draft, lease=lease, durability="memory")
    await store.release(lease)
    return committed.snapshot.id


@pytest.fixture
async def http(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as client:
        yield client


@pytest.fixture
async def session_id(scripted_app):
    meta = {"system": None, "tools": [], "history": "append"}
    store = scripted_app.state.store
    session = await store.create_session(tenant="default", fingerprint=FINGERPRINT, meta=meta)
    await commit(store, session.id, 100)
    yield session.id
    await store.delete_session(session.id)


@pytest.fixture
def fork(http, session_id, request):
    """Asks for the same fork, or forks, each time."""

    async def fork(path="fork", **more):
        url = f"/v1/sessions/{session_id}/{path}"
        headers = {"Idempotency-Key": fork.key}
        return await http.post(url, json={"tokens": 50} | more, headers=headers)

    fork.key = request.node.name
    return fork


@pytest.mark.parametrize("path", ["fork", "forks"])
async def test_a_second_request_does_not_undo_what_the_first_still_makes(
    scripted_app, fork, monkeypatch, path
):
    store = scripted_app.state.store
    put, begun, go_on = store.commit, asyncio.Event(), asyncio.Event()

    async def slow(*args, **named):
        begun.set()
        await go_on.wait()
        return await put(*args, **named)

    monkeypatch.setattr(store, "commit", slow)
    many = {"count": 2} if path == "forks" else {}
    first = asyncio.create_task(fork(path, **many))
    await begun.wait()
    second = await fork(path, **many)
    assert (second.status_code, second.json()["code"]) == (409, "still_running")
    go_on.set()
    made = await first
    assert made.status_code == 201
    assert (await fork(path, **many)).json() == made.json()
    told = [one["fork"] for one in made.json()["forks"]] if many else [made.json()]
    for one in told:
        assert (await store.session(one["id"])).head == one["head"]
        await store.delete_session(one["id"])


async def test_forks_that_many_ask_for_at_once_are_made_once_and_told_to_all(
    scripted_app, fork, monkeypatch, caplog
):
    """Each makes other ones first, so that all find some that others make."""
    sessions, store = scripted_app.state.sessions, scripted_app.state.store
    real, asked = sessions.make_fork, []
    before = {one.id for one in await store.sessions("default")}

    async def in_turn(session_id, at, fork_id):
        asked.append(fork_id)
        await asyncio.sleep(0.02 * (len(asked) % 3))
        return await real(session_id, at, fork_id)

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "make_fork", in_turn)
        answers = await asyncio.gather(*(fork("forks", count=3) for _ in range(6)))
    assert [one.status_code for one in answers] == [201] * 6
    made = {told["fork"]["id"] for one in answers for told in one.json()["forks"]}
    assert {one.id for one in await store.sessions("default")} - before == made
    assert len(made) == 3
    for one in made:
        await store.delete_session(one)


async def test_forks_that_are_still_made_are_refused_without_a_word_in_the_log(
    scripted_app, fork, monkeypatch, caplog
):
    async def still(*_):
        raise StillRunning("by another request")

    monkeypatch.setattr(scripted_app.state.sessions, "make_fork", still)
    refused = await fork("forks", count=3)
    assert (refused.status_code, refused.json()["code"]) == (409, "still_running")
    gc.collect()
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


async def test_a_fork_that_could_not_be_told_of_is_told_of_with_what_was_done_in_it_since(
    scripted_app, fork, http, monkeypatch
):
    claims, store = scripted_app.state.turns.claims, scripted_app.state.store

    async def gone(*_):
        raise StoreUnavailable("away for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(claims, "note", gone)
        assert (await fork(labels={"of": "a test"})).status_code == 503
    (found,) = (await http.get("/v1/sessions?label=of%3Da%20test")).json()
    head = await commit(store, found["id"], 10)
    again = await fork(labels={"of": "a test"})
    assert (again.json()["id"], again.json()["head"]) == (found["id"], head)
    assert (await store.session(found["id"])).head == head
    await store.delete_session(found["id"])


async def test_a_fork_whose_maker_died_half_way_is_deleted_unless_it_is_asked_for_again(
    scripted_app, fork, session_id, monkeypatch
):
    state = scripted_app.state
    store, unfinished = state.store, state.turns.unfinished

    async def delete(session, head):
        await state.sessions.delete(session, expected_head=head)

    async def collected(**settings):
        given = unfinished._settings.model_copy(update=settings)
        with monkeypatch.context() as patch:
            patch.setattr(unfinished, "_settings", given)
            return await unfinished.collect(delete)

    async def dead(*_, **__):
        raise StoreUnavailable("this process writes nothing any more")

    async def dies():
        with monkeypatch.context() as patch:
            patch.setattr(store, "commit", dead)
            patch.setattr(store, "delete_session", dead)
            assert (await fork()).status_code == 503
        return {one.id for one in await store.sessions("default")} - before

    before = {one.id for one in await store.sessions("default")}
    (half,) = await dies()
    assert await collected() == 0  # a request with its key may take it up still
    made = await fork()
    assert (made.json()["id"], made.status_code) == (half, 201)
    assert await collected(request_ttl=1e-6) == 0  # it is whole
    await store.delete_session(half)
    await state.turns.claims.drop(fork.key)
    (other,) = await dies()
    assert other != half
    assert await collected(request_ttl=1e-6) == 1
    assert {one.id for one in await store.sessions("default")} == before
    assert await collected(request_ttl=1e-6) == 0


async def test_a_fork_that_cannot_be_committed_leaves_nothing(scripted_app, fork, monkeypatch):
    store = scripted_app.state.store
    before = {one.id for one in await store.sessions("default")}

    async def refused(*_, **__):
        raise StoreUnavailable("away for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", refused)
        assert (await fork()).status_code == 503
    assert {one.id for one in await store.sessions("default")} == before
    made = await fork()
    assert made.status_code == 201
    await store.delete_session(made.json()["id"])


async def test_forks_whose_making_was_cut_off_are_all_at_the_head_that_it_began_at(
    scripted_app, fork, session_id, monkeypatch
):
    sessions, store = scripted_app.state.sessions, scripted_app.state.store
    real, asked, made = sessions.make_fork, [], []

    async def cut_off(*args):
        asked.append(args)
        if len(asked) > 1:
            raise StoreUnavailable("gone for a moment")
        made.append(await real(*args))
        return made[0]

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "make_fork", cut_off)
        first = await fork("forks", tokens=None, count=3)
    codes = [(one["problem"] or {}).get("code") for one in first.json()["forks"]]
    assert codes == [None, "store_unavailable", "store_unavailable"]
    await commit(store, session_id, 7)
    again = (await fork("forks", tokens=None, count=3)).json()["forks"]
    assert [one["fork"]["head"] for one in again] == [made[0].head] * 3
    assert again[0]["fork"]["id"] == made[0].id


async def test_a_fork_that_was_made_is_told_of_although_the_session_has_gone_on(
    scripted_app, fork, session_id, monkeypatch
):
    store, claims = scripted_app.state.store, scripted_app.state.turns.claims
    head = (await store.session(session_id)).head

    async def lost(*_):
        raise StoreUnavailable("gone for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(claims, "note", lost)
        assert (await fork(tokens=None, expected_head=head)).status_code == 503
    await commit(store, session_id, 7)
    again = await fork(tokens=None, expected_head=head)
    assert again.json()["head"] == head


async def test_a_further_answer_that_failed_is_asked_for_again_in_a_fork_that_is_made_again(
    scripted_app, session_id
):
    store, choices = scripted_app.state.store, scripted_app.state.choices
    first = turn_result(
        session_id=session_id,
        snapshot=(await store.session(session_id)).head,
        usage={"prompt_tokens": 50, "completion_tokens": 50},
    )
    asked = ConversationRequest(messages=[Message(role="user", content="Hi")])
    before = {one.id for one in await store.sessions("default")}
    for _ in range(3):
        with pytest.raises((EngineError, TorporError)) as failed:  # nothing here generates
            async for _ in choices._other(asked, first, 1, "a further answer"):
                pass
        assert not isinstance(failed.value, NotFound)
        assert {one.id for one in await store.sessions("default")} == before
