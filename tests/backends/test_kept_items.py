"""Stored responses keep what is new, are whole with what they follow, and take their own along."""

import json

import openai
import pytest
from redis import Redis

from state_store.quotas import Quota
from tests.backends.scripted import says


def kept_items(server, response_id):
    """How many input items the response's record has of its own."""
    with Redis(unix_socket_path=server.url.removeprefix("unix://")) as redis:
        for key in redis.scan_iter("*:attachments:*", count=1000):
            if (record := redis.hget(key, f"response:{response_id}")) is not None:
                return len(json.loads(record)["input"])
    return None


async def listed(client, response_id):
    items = (await client.responses.input_items.list(response_id, order="asc")).data
    return [item.content[0].text for item in items]


async def talked(client, said, count):
    """A client that sends the whole conversation each time; its responses, and all it has sent."""
    sent_so_far, made = [], []
    for number in range(1, count + 1):
        said.scripted.append(says({"content": f"Answer {number}."}))
        sent_so_far.append({"role": "user", "content": f"Question {number}?"})
        made.append(await client.responses.create(model="scripted", input=sent_so_far))
        sent_so_far += [item.model_dump() for item in made[-1].output]
    return made, sent_so_far


async def test_of_a_whole_conversation_only_what_is_new_is_kept_again(scripted, bare_store, said):
    made, _ = await talked(scripted, said, 4)
    assert len({one.torpor["session"] for one in made}) == 1
    assert [kept_items(bare_store, one.id) for one in made] == [1, 1, 1, 1]
    whole = ["Question 1?", "Answer 1.", "Question 2?", "Answer 2.", "Question 3?"]
    assert await listed(scripted, made[2].id) == whole
    said.scripted.append(says({"content": "Next."}))
    new = await scripted.responses.create(
        model="scripted", input="5?", previous_response_id=made[-1].id
    )
    assert len(await listed(scripted, new.id)) == 9


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
async def test_a_deleted_response_leaves_others_whole_and_takes_its_own_with_it(
    scripted, bare_store, said, order
):
    made, _ = await talked(scripted, said, 4)
    before = await listed(scripted, made[3].id)
    for place in order:
        await scripted.responses.delete(made[place].id)
        assert kept_items(bare_store, made[place].id) is None
        assert await listed(scripted, made[3].id) == before
    assert kept_items(bare_store, made[3].id) == 7
    for place in order:
        with pytest.raises(openai.NotFoundError):
            await scripted.responses.retrieve(made[place].id)


async def test_a_response_can_be_deleted_where_the_quota_is_full(scripted, store, said):
    made, _ = await talked(scripted, said, 3)
    before = await listed(scripted, made[2].id)
    await store.set_quota("default", Quota(bytes=1))
    try:
        for place in (1, 0):
            await scripted.responses.delete(made[place].id)
            assert await listed(scripted, made[2].id) == before
            with pytest.raises(openai.NotFoundError):
                await scripted.responses.retrieve(made[place].id)
    finally:
        await store.set_quota("default", Quota())


async def test_what_is_sent_otherwise_is_kept_as_it_was_sent(scripted, bare_store, said):
    _, sent_so_far = await talked(scripted, said, 2)
    said.scripted.append(says({"content": "Other."}))
    changed = [{"role": "user", "content": "Question 0?"}, *sent_so_far[1:]]
    changed.append({"role": "user", "content": "Question 3?"})
    other = await scripted.responses.create(model="scripted", input=changed)
    assert kept_items(bare_store, other.id) == 5
    assert (await listed(scripted, other.id))[0] == "Question 0?"


async def test_items_stay_whole_when_the_id_of_what_came_before_is_not_found_any_more(
    scripted, scripted_app, said
):
    made, _ = await talked(scripted, said, 2)
    said.scripted += [says({"content": text}) for text in ("Answer 3.", "Branch.")]
    third, branch = [
        await scripted.responses.create(
            model="scripted", input="Question 3?", previous_response_id=made[1].id
        )
        for _ in range(2)
    ]
    assert third.torpor["session"] == made[1].torpor["session"] != branch.torpor["session"]
    for one in made:
        await scripted_app.state.store.notes.delete("default", f"response:{one.id}")
        with pytest.raises(openai.NotFoundError):
            await scripted.responses.retrieve(one.id)
    whole = ["Question 1?", "Answer 1.", "Question 2?", "Answer 2.", "Question 3?"]
    assert await listed(scripted, third.id) == whole
    assert await listed(scripted, branch.id) == whole


async def test_a_response_that_was_stored_without_a_digest_is_whole_and_nothing_begins_with_it(
    scripted, scripted_app, bare_store, said
):
    made, sent_so_far = await talked(scripted, said, 1)
    attachments = scripted_app.state.store.attachments
    session = await scripted_app.state.store.session(made[0].torpor["session"])
    name = f"response:{made[0].id}"
    record = json.loads(await attachments.get(session, name))
    del record["count"], record["digest"]
    await attachments.put(session, name, json.dumps(record).encode(), ttl=100)
    assert await scripted.responses.retrieve(made[0].id) == made[0]
    said.scripted += [says({"content": "Hello."}), says({"content": "Hello."})]
    whole = await scripted.responses.create(
        model="scripted", input=[*sent_so_far, {"role": "user", "content": "Question 2?"}]
    )
    assert whole.torpor["session"] == made[0].torpor["session"]
    assert kept_items(bare_store, whole.id) == 3
    after = await scripted.responses.create(
        model="scripted", input="Or 2?", previous_response_id=made[0].id
    )
    assert await listed(scripted, after.id) == ["Question 1?", "Answer 1.", "Or 2?"]
    await scripted.responses.delete(made[0].id)
    assert await listed(scripted, whole.id) == ["Question 1?", "Answer 1.", "Question 2?"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_response_that_is_deleted_while_another_one_repeats_it_takes_no_items_with_it(
    scripted, scripted_app, bare_store, said, monkeypatch, place
):
    made, sent_so_far = await talked(scripted, said, 3)
    attachments = scripted_app.state.store.attachments
    change, deleted = attachments.change, []

    async def deleting_first(*asked, **options):
        if not deleted:
            deleted.append(made[place].id)
            await scripted.responses.delete(made[place].id)
        return await change(*asked, **options)

    monkeypatch.setattr(attachments, "change", deleting_first)
    said.scripted.append(says({"content": "Hello."}))
    ask = {"role": "user", "content": "Question 4?"}
    last = await scripted.responses.create(model="scripted", input=[*sent_so_far, ask])
    assert deleted
    assert kept_items(bare_store, made[place].id) is None
    said_by_all = [text for n in (1, 2, 3) for text in (f"Question {n}?", f"Answer {n}.")]
    assert await listed(scripted, last.id) == [*said_by_all, "Question 4?"]


async def test_a_response_that_is_repeated_while_it_is_deleted_takes_no_items_with_it(
    scripted, scripted_app, bare_store, said, monkeypatch
):
    made, sent_so_far = await talked(scripted, said, 2)
    attachments = scripted_app.state.store.attachments
    change, repeated = attachments.change, []

    async def repeating_first(*asked, **options):
        if not repeated:
            repeated.append(None)
            said.scripted.append(says({"content": "Hello."}))
            ask = {"role": "user", "content": "Question 3?"}
            repeated[0] = await scripted.responses.create(
                model="scripted", input=[*sent_so_far, ask]
            )
        return await change(*asked, **options)

    monkeypatch.setattr(attachments, "change", repeating_first)
    await scripted.responses.delete(made[1].id)
    whole = ["Question 1?", "Answer 1.", "Question 2?", "Answer 2.", "Question 3?"]
    assert await listed(scripted, repeated[0].id) == whole
    assert kept_items(bare_store, made[1].id) is None
    await scripted.responses.delete(made[0].id)
    assert await listed(scripted, repeated[0].id) == whole
