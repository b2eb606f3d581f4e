"""OpenAI's `/v1/conversations` with its own client, over an endpoint that a test has answer."""

import asyncio
import contextlib
import json
import secrets

import httpx
import openai
import pytest
from redis import Redis

from agent_runtime.openai_api.responses.conversations import Talk
from state_store.errors import QuotaExceeded
from state_store.quotas import Quota
from tests.backends.scripted import call, client_of, says, scripted_runtime, sent


def user(text):
    return {"role": "user", "content": text}


async def ask(client, conversation, said=(), **asked):
    return await client.responses.create(
        model="scripted", conversation=conversation.id, input=said, **asked
    )


def held(server, text):
    """Names of all that Redis holds with the text in it."""
    needle, found = text.encode(), []
    with Redis(unix_socket_path=server.url.removeprefix("unix://")) as redis:
        for key in redis.scan_iter(count=1000):
            kind = redis.type(key)
            values = [redis.get(key)] if kind == b"string" else []
            if kind == b"hash":
                values = [part for pair in redis.hgetall(key).items() for part in pair]
            if needle in key or any(needle in value for value in values):
                found.append(key)
    return found


async def texts(client, conversation, **page):
    items = (await client.conversations.items.list(conversation.id, **page)).data
    return [item.content[0].text for item in items]


async def test_a_conversation_goes_on_in_one_session_and_has_all_that_was_said(scripted, said):
    said.scripted += [says({"content": "One."}), says({"content": "Two."})]
    talk = await scripted.conversations.create(metadata={"topic": "x"})
    first = await ask(scripted, talk, "1?", instructions="Be brief.")
    second = await ask(scripted, talk, "2?", instructions="Be brief.")
    assert first.conversation.id == talk.id
    assert sent(said)[1:] == [("user", "1?"), ("assistant", "One."), ("user", "2?")]
    assert first.torpor["session"] == second.torpor["session"]
    assert await texts(scripted, talk, order="asc") == ["1?", "One.", "2?", "Two."]
    assert await texts(scripted, talk, limit=1) == ["Two."]
    found = await scripted.conversations.retrieve(talk.id)
    assert found == talk
    assert found.metadata == {"topic": "x"}
    changed = await scripted.conversations.update(talk.id, metadata={"topic": "y"})
    assert changed.metadata == {"topic": "y"}
    assert await texts(scripted, talk, order="asc", limit=2) == ["1?", "One."]


async def test_items_that_are_added_are_read_with_the_next_response(scripted, said):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create(items=[{"role": "developer", "content": "Be kind."}])
    added = await scripted.conversations.items.create(talk.id, items=[user("1?"), user("Well?")])
    assert [item.content[0].text for item in added.data] == ["1?", "Well?"]
    assert await texts(scripted, talk, order="asc") == ["Be kind.", "1?", "Well?"]
    await ask(scripted, talk)
    assert sent(said) == [("system", "Be kind."), ("user", "1?"), ("user", "Well?")]
    one = await scripted.conversations.items.retrieve(added.data[0].id, conversation_id=talk.id)
    assert one == added.data[0]


async def test_a_deleted_item_is_not_read_any_more(scripted, said):
    said.scripted += [says({"content": text}) for text in ("One.", "Two.", "Three.")]
    talk = await scripted.conversations.create()
    first = await ask(scripted, talk, "1?")
    await ask(scripted, talk, "2?")
    await scripted.conversations.items.create(talk.id, items=[user("Never.")])
    items = (await scripted.conversations.items.list(talk.id, order="asc")).data
    for item in (items[1], items[-1]):
        await scripted.conversations.items.delete(item.id, conversation_id=talk.id)
    assert await texts(scripted, talk, order="asc") == ["1?", "2?", "Two."]
    third = await ask(scripted, talk, "3?")
    assert [text for _, text in sent(said)] == ["1?", "2?", "Two.", "3?"]
    assert third.torpor["rendered_anew"] == "an item of the conversation was deleted"
    assert third.torpor["session"] != first.torpor["session"]
    assert await texts(scripted, talk, order="asc") == ["1?", "2?", "Two.", "3?", "Three."]
    with pytest.raises(openai.NotFoundError, match="no item"):
        await scripted.conversations.items.delete(items[1].id, conversation_id=talk.id)
    assert (await scripted.responses.retrieve(first.id)).output_text == "One."


async def test_items_of_a_deleted_response_stay_those_of_its_conversation(scripted, said):
    answers = ("One.", "Two.", "Three.", "Four.", "Five.")
    said.scripted += [says({"content": text}) for text in answers]
    talk = await scripted.conversations.create()
    first = await ask(scripted, talk, "1?")
    await ask(scripted, talk, "2?")
    await scripted.responses.delete(first.id)
    last = await ask(scripted, talk, "3?", metadata={"about": "the last one"})
    assert [text for _, text in sent(said)] == ["1?", "One.", "2?", "Two.", "3?"]
    await scripted.responses.delete(last.id)
    for response in (first, last):
        for asked in (
            scripted.responses.retrieve(response.id),
            scripted.responses.input_items.list(response.id),
            scripted.responses.delete(response.id),
            scripted.responses.create(
                model="scripted", input="?", previous_response_id=response.id
            ),
        ):
            with pytest.raises((openai.NotFoundError, openai.BadRequestError), match="no response"):
                await asked
    everything = ["1?", "One.", "2?", "Two.", "3?", "Three."]
    assert await texts(scripted, talk, order="asc") == everything
    fourth = await ask(scripted, talk, "4?")
    assert [text for _, text in sent(said)] == [*everything, "4?"]
    assert fourth.torpor["rendered_anew"] is None
    (newest, *_) = (await scripted.conversations.items.list(talk.id)).data
    await scripted.conversations.items.delete(newest.id, conversation_id=talk.id)
    await ask(scripted, talk, "5?")
    assert [text for _, text in sent(said)] == [*everything, "4?", "5?"]


async def test_what_is_left_of_a_deleted_response_goes_with_its_conversation(
    scripted, bare_store, said
):
    secret = secrets.token_hex(8)
    said.scripted += [says({"content": "One."}), says({"content": "Two."})]
    talk = await scripted.conversations.create()
    first = await ask(scripted, talk, "1?", metadata={"about": secret})
    second = await ask(scripted, talk, "2?")
    await scripted.responses.delete(first.id)
    assert held(bare_store, secret) == []
    record = f"response:{first.id}"
    assert held(bare_store, record) != []
    await scripted.conversations.delete(talk.id)
    assert held(bare_store, record) == []
    assert (await scripted.responses.retrieve(second.id)).output_text == "Two."
    items = (await scripted.responses.input_items.list(second.id)).data
    assert [item.content[0].text for item in items] == ["2?"]


async def test_a_conversation_does_not_go_on_without_its_last_response(
    scripted, scripted_app, said
):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create()
    made = await ask(scripted, talk, "1?")
    await scripted_app.state.sessions.delete(made.torpor["session"])
    for asked in ({}, {}, {"stream": True}, {"background": True}):
        with pytest.raises(openai.BadRequestError, match=talk.id) as refused:
            await ask(scripted, talk, "2?", **asked)
        assert (refused.value.code, refused.value.param) == ("last_response_gone", "conversation")
    assert len(said.seen) == 1
    assert await texts(scripted, talk) == []


async def test_a_result_answers_the_call_of_the_conversations_last_response(scripted, said):
    said.scripted += [says(call("add", "c1", a=1)), says({"content": "Done."})]
    add = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
    talk = await scripted.conversations.create()
    first = await ask(scripted, talk, "Add.", tools=[add])
    result = {
        "type": "function_call_output",
        "call_id": first.output[0].call_id,
        "output": "2",
    }
    second = await ask(scripted, talk, [result], tools=[add])
    assert second.output_text == "Done."
    kinds = [item.type for item in (await scripted.conversations.items.list(talk.id)).data]
    assert kinds == ["message", "function_call_output", "function_call", "message"]


async def test_who_goes_on_with_a_conversation_that_is_being_answered_is_refused(
    scripted, scripted_app, said
):
    talk = await scripted.conversations.create()
    place = talk.id.removeprefix("conv_")
    async with scripted_app.state.turns.writing(f"ses-{place[:16]}-{place[16:]}"):
        for asked in (
            ask(scripted, talk, "1?"),
            scripted.conversations.items.create(talk.id, items=[user("2?")]),
            scripted.conversations.update(talk.id, metadata={"a": "1"}),
        ):
            with pytest.raises(openai.ConflictError) as refused:
                await asked
            assert refused.value.code == "conversation_locked"
    said.scripted.append(says({"content": "Three."}))
    await ask(scripted, talk, "3?")
    assert await texts(scripted, talk, order="asc") == ["3?", "Three."]


async def test_an_answer_that_fails_leaves_the_conversation_as_it_was(scripted, said):
    said.scripted += [says({"content": "One."}), says({"content": "Two."})]
    said.scripted[0].status = 400
    talk = await scripted.conversations.create(items=[user("0?")])
    with pytest.raises(openai.APIStatusError):
        await ask(scripted, talk, "1?")
    assert await texts(scripted, talk) == ["0?"]
    await ask(scripted, talk, "2?")
    assert await texts(scripted, talk, order="asc") == ["0?", "2?", "Two."]


async def test_a_deleted_conversation_is_gone_and_its_responses_are_not(scripted, said):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create()
    made = await ask(scripted, talk, "1?")
    gone = await scripted.conversations.delete(talk.id)
    assert (gone.deleted, gone.object) == (True, "conversation.deleted")
    for asked in (scripted.conversations.retrieve, scripted.conversations.delete):
        with pytest.raises(openai.NotFoundError, match="no conversation"):
            await asked(talk.id)
    assert await scripted.responses.retrieve(made.id) == made


@pytest.mark.parametrize("name", ["conv_1", "conv_" + "0" * 32, "resp_1"])
async def test_a_conversation_that_never_was_is_not_found(scripted, name):
    with pytest.raises(openai.NotFoundError, match=f"no conversation {name}"):
        await scripted.conversations.retrieve(name)
    with pytest.raises(openai.NotFoundError, match=f"no conversation {name}"):
        await scripted.responses.create(model="scripted", input="Hi.", conversation=name)


async def test_items_that_cannot_be_read_are_refused(scripted):
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.conversations.create(items=[image])
    assert refused.value.param == "items[0].content[0]"
    talk = await scripted.conversations.create()
    with pytest.raises(openai.BadRequestError):
        await scripted.conversations.items.create(talk.id, items=[user("x")] * 21)
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.conversations.items.list(talk.id, after="msg_1")
    assert refused.value.param == "after"
    with pytest.raises(openai.BadRequestError) as refused:
        await scripted.responses.create(
            model="scripted", input="Hi.", conversation=talk.id, store=False
        )
    assert refused.value.param == "store"


async def test_what_is_one_tenants_is_not_there_for_another(bare_store, said):
    async with scripted_runtime(bare_store.url, said, require_keys=True) as app:
        store = app.state.store
        clients = []
        for tenant in ("ann", "ben"):
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant)
            clients.append(client_of(app, key=key))
        ann, ben = clients
        said.scripted.append(says({"content": "One."}))
        talk = await ann.conversations.create(items=[user("0?")])
        made = await ask(ann, talk, "1?")
        item = (await ann.conversations.items.list(talk.id)).data[0]
        places = {
            made.id: "resp_" + "0" * 32,
            talk.id: "conv_" + "0" * 32,
        }
        paths = [
            ("GET", f"/responses/{made.id}"),
            ("DELETE", f"/responses/{made.id}"),
            ("POST", f"/responses/{made.id}/cancel"),
            ("GET", f"/responses/{made.id}/input_items"),
            ("GET", f"/conversations/{talk.id}"),
            ("POST", f"/conversations/{talk.id}"),
            ("DELETE", f"/conversations/{talk.id}"),
            ("GET", f"/conversations/{talk.id}/items"),
            ("POST", f"/conversations/{talk.id}/items"),
            ("GET", f"/conversations/{talk.id}/items/{item.id}"),
            ("DELETE", f"/conversations/{talk.id}/items/{item.id}"),
        ]
        bodies = [{"model": "scripted", "input": "?", "previous_response_id": made.id}]
        bodies += [{"model": "scripted", "input": "?", "conversation": talk.id}]
        asked = [
            (method, path, {"items": []} if path.endswith("items") else {"metadata": {}})
            for method, path in paths
        ]
        asked += [("POST", "/responses", body) for body in bodies]
        for method, path, body in asked:
            never, never_body = path, json.dumps(body)
            for there, nowhere in places.items():
                never, never_body = (
                    never.replace(there, nowhere),
                    never_body.replace(there, nowhere),
                )
            theirs = await raw(ben, method, path, body)
            none = await raw(ben, method, never, json.loads(never_body))
            assert theirs.status_code == none.status_code in (400, 404), path
            told = theirs.text
            for there, nowhere in places.items():
                told = told.replace(there, nowhere)
            assert told == none.text, path
        assert (await ann.responses.retrieve(made.id)).output_text == "One."
        assert len(await texts(ann, talk)) == 3
        for client in clients:
            await client.close()


async def raw(client, method, path, body) -> httpx.Response:
    """The answer as it came."""
    http = client._client
    headers = {"Authorization": f"Bearer {client.api_key}"}
    sent_body = None if method in ("GET", "DELETE") else body
    return await http.request(method, f"http://scripted/v1{path}", json=sent_body, headers=headers)


@pytest.mark.parametrize("why", ["the quota is full", "nobody waits for it"])
async def test_a_conversation_that_is_not_created_leaves_no_session(
    scripted, scripted_app, store, monkeypatch, why
):
    before = [one.id for one in await store.sessions("default")]
    if why == "the quota is full":
        await store.set_quota("default", Quota(bytes=1))
        try:
            with pytest.raises(openai.RateLimitError, match="may have 1 bytes"):
                await scripted.conversations.create(items=[user("1?")])
        finally:
            await store.set_quota("default", Quota())
    else:
        begun = asyncio.Event()

        async def never(*_, **__):
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(scripted_app.state.store.attachments, "put", never)
        creating = asyncio.create_task(scripted.conversations.create())
        await begun.wait()
        assert len(await store.sessions("default")) == len(before) + 1
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert [one.id for one in await store.sessions("default")] == before


async def test_a_response_of_a_conversation_can_be_deleted_where_the_quota_is_full(
    scripted, store, said
):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create()
    first = await ask(scripted, talk, "1?")
    await store.set_quota("default", Quota(bytes=1))
    try:
        await scripted.responses.delete(first.id)
        assert await texts(scripted, talk, order="asc") == ["1?", "One."]
        await scripted.conversations.delete(talk.id)
    finally:
        await store.set_quota("default", Quota())
    with pytest.raises(openai.NotFoundError):
        await scripted.conversations.retrieve(talk.id)


async def test_items_whose_ids_come_twice_get_ids_of_their_own(scripted):
    said = [{"type": "message", "id": "msg_1", **user(text)} for text in ("One.", "Two.")]
    conversation = await scripted.conversations.create(items=said)
    again = {"type": "message", "id": "msg_1", **user("Three.")}
    await scripted.conversations.items.create(conversation.id, items=[again])
    page = await scripted.conversations.items.list(conversation.id, limit=1, order="asc")
    items = [item async for item in page]
    assert [item.content[0].text for item in items] == ["One.", "Two.", "Three."]
    assert len({item.id for item in items}) == 3
    await scripted.conversations.items.delete("msg_1", conversation_id=conversation.id)
    left = await scripted.conversations.items.list(conversation.id, order="asc")
    assert [item.content[0].text for item in left.data] == ["Two.", "Three."]


async def test_a_retry_tells_a_conversation_of_a_response_whose_client_went_too_early(
    scripted, said, monkeypatch
):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create(items=[user("0?")])
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    is_kept = asyncio.Event()

    async def never(*_):
        is_kept.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Talk, "went_on", never)
        asking = asyncio.create_task(ask(scripted, talk, "1?", extra_headers=headers))
        await asyncio.wait_for(is_kept.wait(), 30)
        asking.cancel()
        await asyncio.wait([asking])
    assert await texts(scripted, talk, order="asc") == ["0?"]
    for _ in range(100):
        with contextlib.suppress(openai.ConflictError):  # until its lease is given back
            await scripted.conversations.items.create(talk.id, items=[user("2?")])
            break
        await asyncio.sleep(0.02)
    again = await ask(scripted, talk, "1?", extra_headers=headers)
    assert again.output_text == "One."
    assert await texts(scripted, talk, order="asc") == ["0?", "1?", "One.", "2?"]
    assert await ask(scripted, talk, "1?", extra_headers=headers) == again
    assert await texts(scripted, talk, order="asc") == ["0?", "1?", "One.", "2?"]


async def test_a_response_is_not_kept_whose_conversation_cannot_go_on_with_it(
    scripted, said, monkeypatch
):
    said.scripted.append(says({"content": "One."}))
    talk = await scripted.conversations.create()
    headers = {"Idempotency-Key": secrets.token_hex(8)}

    async def refused(*_):
        raise QuotaExceeded("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Talk, "went_on", refused)
        lost = await ask(scripted, talk, "1?", extra_headers=headers)
    assert lost.store is False
    with pytest.raises(openai.NotFoundError):
        await scripted.responses.retrieve(lost.id)
    again = await ask(scripted, talk, "1?", extra_headers=headers)
    assert (again.id, again.store) == (lost.id, True)
    assert await texts(scripted, talk, order="asc") == ["1?", "One."]
