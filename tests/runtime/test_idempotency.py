"""A request that is sent again with its idempotency key: made once, answered as it was."""

import asyncio
import contextlib

import pytest

from agent_runtime.errors import KeyReused, StillRunning
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import CreateSession, ForkRequest
from agent_runtime.wire.turns import ConversationRequest, TurnRequest, TurnResult
from engine.errors import EngineUnreachable
from state_store.store import StateStore

from .talk import HISTORY, TEXT

ASKED = TurnRequest(messages=[Message(role="user", content=HISTORY[0])], max_tokens=16)


class Died(BaseException):
    """The runtime is gone: it has written its last."""


@pytest.fixture
async def doomed(stage):
    """A runtime in this process. `dies_before(what)`: it writes nothing any more from then on."""
    settings = RuntimeSettings(redis_url=stage.store.url, model_dir=stage.model, lease_ttl=1.0)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield Doomed(app.state)


class Doomed:
    def __init__(self, state):
        self.turns, self.sessions = state.turns, state.sessions
        self.conversations, self._store = state.conversations, state.store
        self.choices = state.choices

    def dies_before(self, owner, name):
        async def die(*_, **__):
            for one, method in (
                (self._store, "release"), (self._store, "renew"), (self._store, "commit"),
                (self._store.session_notes, "put"), (self._store.session_notes, "delete"),
                (self._store.notes, "put"), (self._store.notes, "put_instead"),
                (self._store, "fork"), (self._store, "create_session"),
            ):  # fmt: skip
                setattr(one, method, dead)
            raise Died

        async def dead(*_, **__):
            raise Died

        setattr(owner, name, die)

    def dies_after(self, owner, name):
        done = getattr(owner, name)
        self.dies_before(owner, name)
        die = getattr(owner, name)

        async def do_and_die(*args, **options):
            await done(*args, **options)
            await die()

        setattr(owner, name, do_and_die)


async def result_of(events):
    *_, result = [event async for event in events]
    return result


def same(one: TurnResult, other: TurnResult) -> bool:
    """But for what only the first one could know."""
    unknown = {"replayed", "timing", "durable", "not_durable_because", "bytes_written"}
    return one.model_dump(exclude=unknown) == other.model_dump(exclude=unknown)


async def until_over(torpor: Torpor, session_id: str, text: str, **options) -> TurnResult:
    """Repeat a turn, as a client does, until the one who died has lost the session."""
    for _ in range(200):
        try:
            return await torpor.turn(session_id, text, **options)
        except ApiError as error:
            if error.code != "still_running":
                raise
            await asyncio.sleep(0.1)
    pytest.fail("the lease of a runtime that died did not expire")


async def test_a_turn_that_is_sent_again_is_answered_as_it_was(torpor, session):
    first = await torpor.turn(
        session.id, HISTORY[0], max_tokens=16, top_logprobs=2, idempotency_key="first"
    )
    events = [
        event
        async for event in torpor.stream(
            session.id, HISTORY[0], max_tokens=16, top_logprobs=2, idempotency_key="first"
        )
    ]
    assert events[-1] == first.model_copy(update={"replayed": True})
    assert "".join(event.text for event in events[:-1]) == first.text
    assert len(await torpor.snapshots(session.id)) == 1
    # Also when the session has gone on since.
    await torpor.turn(session.id, HISTORY[1], max_tokens=16)
    again = await torpor.turn(
        session.id, HISTORY[0], max_tokens=16, top_logprobs=2, idempotency_key="first"
    )
    assert again == events[-1]
    assert len(await torpor.snapshots(session.id)) == 2


async def test_a_key_is_for_one_request(torpor, session):
    await torpor.turn(session.id, HISTORY[0], max_tokens=16, idempotency_key="one")
    other = await torpor.create()
    for session_id, text in ((session.id, HISTORY[1]), (other.id, HISTORY[0])):
        with pytest.raises(ApiError) as refused:
            await torpor.turn(session_id, text, max_tokens=16, idempotency_key="one")
        assert (refused.value.code, refused.value.status) == ("key_reused", 422)
    assert (await torpor.get(other.id)).head is None
    await torpor.delete(other.id)


async def test_requests_with_one_key_at_the_same_time_generate_once(torpor, session):
    async def attempt():
        try:
            return await torpor.turn(session.id, HISTORY[0], max_tokens=48, idempotency_key="now")
        except ApiError as error:
            if (error.code, error.status) != ("still_running", 409):
                raise
            return None

    results = [turn for turn in await asyncio.gather(*(attempt() for _ in range(5))) if turn]
    assert results
    assert len({turn.snapshot for turn in results}) == 1
    assert len(await torpor.snapshots(session.id)) == 1


async def test_a_turn_that_failed_may_be_sent_again(torpor, session):
    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            await torpor.turn(session.id, [], proceed=True, idempotency_key="failed")
        assert refused.value.code == "bad_request"


@pytest.mark.parametrize("gap", ["before the commit", "after the commit", "equal snapshot"])
async def test_a_turn_whose_runtime_died_is_generated_or_found_but_never_twice(
    torpor, session, doomed, store: StateStore, gap
):
    options = {"max_tokens": 16, "idempotency_key": f"died {gap}"}
    twin = None
    if gap == "equal snapshot":  # it has no key, and stays as it is
        fork = await torpor.fork(session.id)
        twin = await torpor.turn(fork.id, HISTORY[0], max_tokens=16)
        await torpor.delete(fork.id)
    if gap == "before the commit":
        doomed.dies_before(doomed.turns._store, "commit")
    else:
        doomed.dies_before(doomed.turns._answers, "give")
    with pytest.raises(Died):
        await result_of(doomed.turns.run(session.id, ASKED, key=options["idempotency_key"]))
    committed = (await store.session(session.id)).head
    assert (committed is None) is (gap == "before the commit")
    found = await until_over(torpor, session.id, HISTORY[0], **options)
    assert found.replayed is (committed is not None)
    if committed is not None:
        assert found.snapshot == committed
        assert found.not_durable_because is not None
        assert twin is None or twin.token_ids == found.token_ids
    assert [s.id for s in await torpor.snapshots(session.id)] == [found.snapshot]
    assert found.token_ids == list(
        (await store.tokens(found.snapshot))[found.usage.prompt_tokens :]
    )
    assert (await torpor.turn(session.id, HISTORY[0], **options)).snapshot == found.snapshot
    assert (await torpor.get(session.id)).turn is None


async def test_a_turn_is_found_although_another_one_took_over_since(torpor, session, doomed):
    doomed.dies_before(doomed.turns._answers, "give")
    with pytest.raises(Died):
        await result_of(doomed.turns.run(session.id, ASKED, key="overtaken"))
    committed = (await torpor.get(session.id)).head
    for _ in range(200):
        with contextlib.suppress(ApiError):
            await torpor.turn(session.id, HISTORY[1], max_tokens=16)
            break
        await asyncio.sleep(0.1)
    found = await torpor.turn(session.id, HISTORY[0], max_tokens=16, idempotency_key="overtaken")
    assert (found.snapshot, found.replayed) == (committed, True)
    assert len(await torpor.snapshots(session.id)) == 2


async def test_a_session_and_its_fork_are_made_once(torpor, session):
    made = [
        await torpor.create(system="s", labels={"a": "b"}, idempotency_key="made") for _ in range(2)
    ]
    assert made[0] == made[1]
    await torpor.turn(session.id, HISTORY[0], max_tokens=16)
    forks = [await torpor.fork(session.id, tokens=5, idempotency_key="forked") for _ in range(2)]
    assert forks[0] == forks[1]
    assert forks[0].tokens == 5
    with pytest.raises(ApiError, match="another request"):
        await torpor.fork(session.id, tokens=6, idempotency_key="forked")
    for one in (made[0], forks[0]):
        await torpor.delete(one.id)


@pytest.mark.parametrize("tokens", [None, 5])
async def test_a_fork_whose_maker_died_is_found(torpor, session, doomed, store, tokens):
    """Also one inside a turn that was made in part: it is made whole."""
    await torpor.turn(session.id, HISTORY[0], max_tokens=16)
    key = f"fork at {tokens}"
    before = {one.id for one in await store.sessions("default")}
    if tokens is None:
        doomed.dies_after(doomed.turns._store, "fork")
    else:
        doomed.dies_before(doomed.turns._store, "commit")
        doomed.turns._store.delete_session = doomed.turns._store.commit
    with pytest.raises(Died):
        await doomed.sessions.fork(session.id, ForkRequest(tokens=tokens), key=key)
    (half,) = {one.id for one in await store.sessions("default")} - before
    fork = None
    for _ in range(200):
        with contextlib.suppress(ApiError):
            fork = await torpor.fork(session.id, tokens=tokens, idempotency_key=key)
            break
        await asyncio.sleep(0.1)
    assert fork.id == half
    assert tokens in (None, fork.tokens)
    assert {one.id for one in await store.sessions("default")} - before == {half}
    await torpor.delete(half)


async def test_a_session_whose_maker_died_is_found(torpor, doomed, store):
    doomed.dies_after(doomed.turns._store, "create_session")
    before = {one.id for one in await store.sessions("default")}
    with pytest.raises(Died):
        await doomed.sessions.create(CreateSession(), key="created")
    created = await torpor.create(idempotency_key="created")
    assert {one.id for one in await store.sessions("default")} - before == {created.id}
    await torpor.delete(created.id)


@pytest.mark.parametrize("gap", ["before its session", "before its turn", "after its turn"])
async def test_a_conversation_whose_runtime_died_goes_on_in_the_same_session(
    torpor, doomed, store, gap
):
    said = [Message(role="user", content=f"{TEXT[:20]} {gap}")]
    before = {one.id for one in await store.sessions("default")}
    owner, name = {
        "before its session": (doomed.turns._store, "create_session"),
        "before its turn": (doomed.turns.claims, "claim"),
        "after its turn": (doomed.turns._answers, "give"),
    }[gap]
    request = ConversationRequest(messages=said, max_tokens=8)
    if gap == "before its turn":
        doomed.dies_after(doomed.sessions, "make")
    else:
        doomed.dies_before(owner, name)
    with pytest.raises(Died):
        await result_of(doomed.conversations.run(request, key=gap))
    answer = None
    for _ in range(200):
        with contextlib.suppress(ApiError):
            answer = await torpor.converse(said, max_tokens=8, idempotency_key=gap)
            break
        await asyncio.sleep(0.1)
    assert {one.id for one in await store.sessions("default")} - before == {answer.session_id}
    assert len(await torpor.snapshots(answer.session_id)) == 1
    again = await torpor.converse(said, max_tokens=8, idempotency_key=gap)
    assert again.snapshot == answer.snapshot
    await torpor.delete(answer.session_id)


async def test_choices_of_which_one_failed_are_asked_for_again(torpor, doomed, store):
    request = ConversationRequest(
        messages=[Message(role="user", content=f"{TEXT[:20]} choices")], max_tokens=8
    )
    before = {one.id for one in await store.sessions("default")}
    real, failed = doomed.turns.run, []

    async def failing(session_id, turn, *, key=None):
        async with contextlib.aclosing(real(session_id, turn, key=key)) as events:
            async for event in events:
                if "some\n1" in key and not failed:
                    failed.append(session_id)
                    raise EngineUnreachable("it has gone")
                yield event

    doomed.turns.run = failing
    with pytest.raises(EngineUnreachable):
        await result_of(doomed.choices.run(request, 2, key="some"))
    assert len(failed) == 1
    answers = {}
    async for number, event in doomed.choices.run(request, 2, key="some"):
        if isinstance(event, TurnResult):
            answers[number] = event
    assert [answers[number].replayed for number in range(2)] == [True, False]
    made = {one.id for one in await store.sessions("default")} - before
    assert made == {one.session_id for one in answers.values()}
    for one in made:
        await torpor.delete(one)


def test_errors_say_when_to_ask_again():
    assert StillRunning("x").retry_after > 0
    assert KeyReused("x").status == 422
