"""Responses made in the background: fetched, cancelled and taken over by any runtime."""

import asyncio
import threading

import openai
import pytest

from tests.backends.scripted import client_of, forget, says, scripted_runtime, sent


@pytest.fixture
def held():
    """An answer that is not given before it is let go."""
    let_go = threading.Event()
    answer = says({"content": "Late."})
    answer.after = let_go
    yield answer
    let_go.set()


@pytest.fixture
async def elsewhere(bare_store, said):
    """A client of another runtime on the same store."""
    async with scripted_runtime(bare_store.url, said) as app, client_of(app) as client:
        yield client


async def begin(client, text="Hi.", **asked):
    return await client.responses.create(model="scripted", input=text, background=True, **asked)


async def until(client, made, *statuses):
    for _ in range(1000):
        found = await client.responses.retrieve(made.id)
        if found.status in statuses:
            return found
        await asyncio.sleep(0.02)
    pytest.fail(f"{found.status} and never {statuses}")


async def until_asked(said):
    """The endpoint has been asked, and the turn runs."""
    for _ in range(1000):
        if said.seen:
            return
        await asyncio.sleep(0.02)
    pytest.fail("never asked")


async def until_left(app, made):
    """Nobody makes it any more."""
    for _ in range(1000):
        if await app.state.store.notes.get("default", [f"background-alive:{made.id}"]) == [None]:
            return
        await asyncio.sleep(0.02)
    pytest.fail("still being made")


async def test_a_response_is_made_while_nobody_waits(scripted, elsewhere, said, held):
    said.scripted.append(held)
    made = await begin(scripted, metadata={"a": "1"})
    assert (made.status, made.background, made.output) == ("queued", True, [])
    await until_asked(said)
    (item,) = (await elsewhere.responses.input_items.list(made.id)).data
    assert item.content[0].text == "Hi."
    with pytest.raises(openai.BadRequestError, match="being made"):
        await elsewhere.responses.delete(made.id)
    with pytest.raises(openai.BadRequestError, match="no response"):
        await scripted.responses.create(model="scripted", input="?", previous_response_id=made.id)
    held.after.set()
    done = await until(elsewhere, made, "completed")
    assert (done.output_text, done.created_at, done.background) == ("Late.", made.created_at, True)
    assert done.metadata == {"a": "1"}
    said.scripted.append(says({"content": "Two."}))
    after = await elsewhere.responses.create(
        model="scripted", input="2?", previous_response_id=made.id
    )
    assert sent(said) == [("user", "Hi."), ("assistant", "Late."), ("user", "2?")]
    assert after.torpor["session"] == done.torpor["session"]
    assert (await scripted.responses.cancel(made.id)).status == "completed"
    await elsewhere.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await scripted.responses.retrieve(made.id)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_it_is_cancelled_from_any_runtime(scripted, elsewhere, said, held, where):
    said.scripted.append(held)
    made = await begin(scripted)
    await until_asked(said)
    cancelled = await (scripted if where == "here" else elsewhere).responses.cancel(made.id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert (await scripted.responses.retrieve(made.id)).status == "cancelled"
    await scripted.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await elsewhere.responses.retrieve(made.id)


async def test_what_a_runtime_that_died_was_making_is_cancelled_once_it_is_given_up(
    bare_store, scripted, scripted_app, said, held
):
    said.scripted.append(held)
    async with scripted_runtime(bare_store.url, said) as app, client_of(app) as client:
        made = await begin(client)
        await until_asked(said)
    # As if it had been killed: its sign of life is there for a while.
    alive = f"background-alive:{made.id}"
    await scripted_app.state.store.notes.put("default", alive, b"of another", ttl=1)
    async with asyncio.timeout(30):
        cancelled = await scripted.responses.cancel(made.id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert (await scripted.responses.retrieve(made.id)).status == "cancelled"


async def test_one_that_fails_says_why(scripted, said):
    refused = says()
    refused.status = 400
    said.scripted.append(refused)
    failed = await until(scripted, await begin(scripted), "failed")
    assert (failed.error.code, failed.torpor["code"]) == ("server_error", "engine_refused")
    with pytest.raises(openai.BadRequestError, match="no response"):
        await scripted.responses.create(model="scripted", input="?", previous_response_id=failed.id)


async def test_one_that_fails_as_nobody_foresaw_is_not_made_again(
    scripted, scripted_app, said, monkeypatch, caplog
):
    async def broken(*_, **__):
        raise RuntimeError("a secret of the machine")
        yield

    monkeypatch.setattr(scripted_app.state.turns, "run", broken)
    made = await begin(scripted)
    failed = await until(scripted, made, "failed")
    assert failed.torpor["code"] == "internal"
    assert "secret" not in failed.error.message
    await until_left(scripted_app, made)
    assert (await scripted.responses.retrieve(made.id)).status == "failed"
    assert len([line for line in caplog.records if line.exc_info]) == 1


async def test_what_a_runtime_left_is_made_by_the_next_that_is_asked(
    bare_store, scripted, said, held
):
    said.scripted.append(held)
    async with scripted_runtime(bare_store.url, said) as app, client_of(app) as client:
        made = await begin(client)
        await until_asked(said)
    assert (await scripted.responses.retrieve(made.id)).status in ("queued", "in_progress")
    said.scripted.append(says({"content": "Again."}))
    assert (await until(scripted, made, "completed")).output_text == "Again."


async def test_a_runtime_that_drains_leaves_what_it_has_not_made_to_the_next_that_is_asked(
    scripted, scripted_app, elsewhere, said, held
):
    said.scripted.append(held)
    made = await begin(scripted)
    await until_asked(said)
    await scripted_app.state.drain.run(timeout=0)
    await until_left(scripted_app, made)
    assert (await scripted.responses.retrieve(made.id)).status == "queued"
    notes = scripted_app.state.store.notes
    assert await notes.get("default", [f"background-alive:{made.id}"]) == [None]
    with pytest.raises(openai.InternalServerError) as refused:
        await begin(scripted)
    assert (refused.value.status_code, refused.value.code) == (503, "draining")
    said.scripted.append(says({"content": "Again."}))
    assert (await until(elsewhere, made, "completed")).output_text == "Again."


async def test_what_a_runtime_that_drains_has_left_can_be_cancelled_there(
    scripted, scripted_app, said, held
):
    said.scripted.append(held)
    made = await begin(scripted)
    await until_asked(said)
    await scripted_app.state.drain.run(timeout=0)
    await until_left(scripted_app, made)
    assert (await scripted.responses.cancel(made.id)).status == "cancelled"


async def test_what_was_generated_by_a_runtime_that_died_is_not_generated_again(
    scripted, scripted_app, said, held
):
    said.scripted.append(held)
    made = await begin(scripted)
    notes, name = scripted_app.state.store.notes, f"background:{made.id}"
    (before,) = await notes.get("default", [name])
    held.after.set()
    done = await until(scripted, made, "completed")
    # As if the runtime had died between its turn's commit and the response's record.
    session = await scripted_app.state.store.session(done.torpor["session"])
    await scripted_app.state.store.attachments.delete(session, f"response:{made.id}")
    await notes.put("default", name, before, ttl=60)
    again = await until(scripted, made, "completed")
    assert again.output == done.output
    assert again.torpor["snapshot"] == done.torpor["snapshot"]
    assert again.torpor["replayed"]


async def test_the_same_request_again_is_the_same_response(scripted, said):
    said.scripted.append(says({"content": "Once."}))
    key = {"extra_headers": {"Idempotency-Key": "of the background"}}
    one = await begin(scripted, **key)
    await until(scripted, one, "completed")
    two = await begin(scripted, **key)
    assert (two.id, two.status) == (one.id, "completed")
    with pytest.raises(openai.UnprocessableEntityError):
        await begin(scripted, "Bye.", **key)


async def test_a_key_that_is_not_known_any_more_makes_a_response_of_its_own(
    scripted, scripted_app, said
):
    said.scripted += [says({"content": "Hi."}), says({"content": "Bye."})]
    key = {"extra_headers": {"Idempotency-Key": "of the background, long ago"}}
    one = await until(scripted, await begin(scripted, **key), "completed")
    await forget(scripted_app, "of the background, long ago\nresponse")
    two = await begin(scripted, "Bye.", **key)
    assert two.id != one.id
    assert (await until(scripted, two, "completed")).output_text == "Bye."
    assert await scripted.responses.retrieve(one.id) == one


async def test_it_goes_on_with_a_conversation(scripted, said):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create()
    await until(scripted, await begin(scripted, "1?", conversation=talk.id), "completed")
    items = (await scripted.conversations.items.list(talk.id)).data
    assert [item.content[0].text for item in items] == ["One.", "1?"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"stream": True}, "stream"),
        ({"store": False}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
async def test_what_cannot_be_made_is_refused_at_once(scripted, asked, param):
    with pytest.raises(openai.BadRequestError) as refused:
        await begin(scripted, **asked)
    assert refused.value.param == param


async def test_what_was_not_made_in_the_background_cannot_be_cancelled(scripted, said):
    said.scripted.append(says({"content": "One."}))
    made = await scripted.responses.create(model="scripted", input="Hi.")
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        await scripted.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError, match="events are not kept"):
        await scripted.responses.retrieve(made.id, stream=True)
