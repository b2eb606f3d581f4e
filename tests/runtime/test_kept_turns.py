"""What becomes of turns that were answered while the store was gone, when it is back."""

import asyncio
from types import SimpleNamespace

import pytest

from agent_runtime.errors import Draining, KeptTurnsRefused
from agent_runtime.feed.posting import Feed
from agent_runtime.messages.histories import EMPTY
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.committing import commit_turn
from agent_runtime.turns.idempotency import Claims, turn_of
from agent_runtime.turns.keeping import Keeping
from agent_runtime.turns.outage import KeptTurn, Standing
from agent_runtime.turns.stateless import Stateless
from agent_runtime.turns.turns import Turns
from agent_runtime.turns.writing import Writers
from agent_runtime.wire.messages import Message
from agent_runtime.wire.residency import SuspendRequest
from agent_runtime.wire.turns import TurnRequest
from engine.pool import EnginePool
from engine.replies import Settled
from state_store.embedded import EmbeddedServer
from state_store.encodings import Segment
from state_store.errors import NotFound, StoreUnavailable
from state_store.files import FileSet
from state_store.fingerprint import Fingerprint
from state_store.store import StateStore
from tests.results import turn_result

FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="bfloat16", conv_dtype="bfloat16",
    ssm_dtype="float32", page_size=4, kv_payload_bytes=8, state_payload_bytes=8,
    kv_segments=(Segment("bfloat16", 8),), state_segments=(Segment("float32", 8),), tp_size=1,
    draft="none", bigram=False, engine="e",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
async def store(server):
    async with await StateStore.connect(server.url) as opened:
        yield opened


class _Settling:
    """An engine that has stored nothing.

    answers: how many it still gives before the store is gone again; None for any number
    """

    record = SimpleNamespace(
        engine_id="engine", boot_id="boot", page_size=4, fingerprint=FINGERPRINT, ranks=1,
        state_object_bytes=8, kv_object_bytes=8, prefill_chunk=4,
    )  # fmt: skip

    def __init__(self):
        self.answers = None

    async def settle(self, hashes, *, timeout, form):
        if self.answers == 0:
            raise StoreUnavailable("gone again")
        if self.answers is not None:
            self.answers -= 1
        return Settled((), None)

    async def renew(self, hashes, *, timeout, form):
        return 0

    async def persist(self, hashes, *, timeout, form):
        return Settled((), None)


@pytest.fixture
async def kept(server, store):
    """An outage with one turn kept on an empty session, and what commits a turn on that."""
    engine = _Settling()
    session = await store.create_session(tenant="default", fingerprint=FINGERPRINT)
    pool, residency = EnginePool(store), Residency()
    settings = RuntimeSettings(redis_url=server.url, model_dir="unused")
    feed = Feed(store)
    turns = Turns(store, pool, None, residency, settings, Stateless(store, None, only=False), feed)
    outage = turns.outage
    outage.keep(Standing(session, "salt", engine, EMPTY), KeptTurn([5, 6, 7], 2, "memory"))
    sessions = Sessions(store, pool, turns, residency, settings, feed)
    lease = await store.acquire(session.id, ttl=30, owner="test")

    async def commit(ids):
        commit, _ = await commit_turn(
            store,
            engine,
            await store.session(session.id),
            lease,
            EMPTY,
            ids,
            [],
            prompt_tokens=2,
            durability="memory",
            settle_timeout=1,
            boundary_interval=None,
        )
        return commit.snapshot.id

    yield SimpleNamespace(
        session=session,
        outage=outage,
        engine=engine,
        lease=lease,
        commit=commit,
        sessions=sessions,
        residency=residency,
        turns=turns,
    )
    await store.release(lease)
    await turns.close()
    await feed.close()
    await pool.close()


async def test_kept_turns_are_refused_when_another_writer_has_moved_the_head(kept, store):
    session_id, outage = kept.session.id, kept.outage
    moved = await kept.commit([5, 6, 8])
    with pytest.raises(KeptTurnsRefused, match="not committed, and are dropped"):
        await outage.catch_up(await store.session(session_id), kept.lease)
    assert (await store.session(session_id)).head == moved
    assert outage.kept(session_id) == 0
    assert outage.standing(session_id) is None


async def test_a_turn_whose_commit_happened_unheard_is_not_committed_twice(kept, store):
    session_id, outage = kept.session.id, kept.outage
    head = await kept.commit([5, 6, 7])
    caught_up = await outage.catch_up(await store.session(session_id), kept.lease)
    assert caught_up.head == head
    assert outage.kept(session_id) == 0
    assert list(outage.standing(session_id).history.tokens) == [5, 6, 7]


async def test_of_turns_behind_one_whose_commit_happened_unheard_only_those_are_refused(
    kept, store
):
    session_id, outage = kept.session.id, kept.outage
    head = await kept.commit([5, 6, 7, 8])  # as if somebody had gone on from it
    session = await outage.catch_up(await store.session(session_id), kept.lease)
    assert session.head == head
    assert outage.kept(session_id) == 0
    assert outage.standing(session_id) is None
    outage.keep(Standing(kept.session, "salt", kept.engine, EMPTY), KeptTurn([5], 1, "memory"))
    outage.keep(outage.standing(session_id), KeptTurn([9], 1, "memory"))
    with pytest.raises(KeptTurnsRefused, match="meanwhile: 1 are not"):
        await outage.catch_up(await store.session(session_id), kept.lease)


async def test_a_turn_that_is_kept_while_the_keys_of_others_are_claimed_is_committed_too(
    kept, store, server
):
    await store.release(kept.lease)
    session, outage = kept.session, kept.outage
    settings = RuntimeSettings(redis_url=server.url, model_dir="unused", catch_up_interval=0.01)
    writers = Writers(store, kept.residency, settings)
    away = StoreUnavailable("gone")
    request = TurnRequest(messages=[Message(role="user", content="Hi.")])
    said = said_in(session)
    all_claimed = asyncio.Event()

    class Watched(Claims):
        async def claim(self, key, *others):
            if key == "first":
                before = outage.standing(session.id)
                keeping.keep(before, [8, 9], said, request, away, "second")
            else:
                all_claimed.set()
            return await super().claim(key, *others)

    keeping = Keeping(outage, writers, Watched(store, settings), settings)
    keeping.keep(outage.standing(session.id), [7], said, request, away, "first")
    await asyncio.wait_for(all_claimed.wait(), 10)
    head = (await store.session(session.id)).head
    assert list(await store.tokens(head)) == [5, 6, 7, 7, 8, 9]
    await keeping.close()


async def test_a_kept_turn_keeps_its_key_until_the_store_has_it(kept, store, server):
    await store.release(kept.lease)
    session, outage = kept.session, kept.outage
    settings = RuntimeSettings(redis_url=server.url, model_dir="unused", catch_up_interval=0.01)
    request = TurnRequest(messages=[Message(role="user", content="Hi.")])
    is_claimed = asyncio.Event()
    answered_meanwhile = []

    class Hiccup(Claims):
        async def claim(self, *args):
            if not answered_meanwhile:
                answered_meanwhile.append(keeping.answer(session.id, request, "kept key"))
                raise StoreUnavailable("gone once more")
            claim = await super().claim(*args)
            is_claimed.set()
            return claim

    claims = Hiccup(store, settings)
    keeping = Keeping(outage, Writers(store, kept.residency, settings), claims, settings)
    away = StoreUnavailable("gone")
    keeping.keep(outage.standing(session.id), [7], said_in(session), request, away, "kept key")
    await asyncio.wait_for(is_claimed.wait(), 10)
    assert answered_meanwhile[0].replayed
    _, is_first = await claims.claim("kept key", turn_of(session.id), request)
    assert not is_first
    await asyncio.gather(*keeping._catching_up.values())
    assert keeping.answer(session.id, request, "kept key") is None
    await keeping.close()


def said_in(session):
    usage = {"prompt_tokens": 2, "completion_tokens": 1}
    return turn_result(session_id=session.id, usage=usage)


async def test_no_more_is_kept_than_there_is_room_for(kept):
    assert kept.outage.has_room((1 << 20) - 3)
    assert not kept.outage.has_room((1 << 20) - 2)


async def test_what_is_still_kept_stays_said_when_the_store_goes_again_in_between(kept, store):
    session_id, outage = kept.session.id, kept.outage
    outage.keep(outage.standing(session_id), KeptTurn([8, 9], 4, "memory"))
    kept.engine.answers = 1
    with pytest.raises(StoreUnavailable):
        await outage.catch_up(await store.session(session_id), kept.lease)
    assert outage.kept(session_id) == 1
    standing = outage.standing(session_id)
    assert list(standing.history.tokens) == [5, 6, 7, 8, 9]

    # A turn that is said on that is committed after what it was said on.
    outage.keep(standing, KeptTurn([10], 5, "memory"))
    kept.engine.answers = None
    caught_up = await outage.catch_up(await store.session(session_id), kept.lease)
    assert list(await store.tokens(caught_up.head)) == [5, 6, 7, 8, 9, 10]
    assert list(outage.standing(session_id).history.tokens) == [5, 6, 7, 8, 9, 10]


async def test_a_turn_that_began_before_the_others_were_committed_is_committed_after_them(
    kept, store
):
    session_id, outage = kept.session.id, kept.outage
    began_on = outage.standing(session_id)
    await outage.catch_up(await store.session(session_id), kept.lease)
    outage.keep(began_on, KeptTurn([8, 9], 4, "memory"))
    caught_up = await outage.catch_up(await store.session(session_id), kept.lease)
    assert list(await store.tokens(caught_up.head)) == [5, 6, 7, 8, 9]


async def test_a_turn_that_was_not_said_behind_those_that_are_kept_is_lost_by_name(kept, store):
    session_id, outage, keeping = kept.session.id, kept.outage, kept.turns._keeping
    request = TurnRequest(messages=[Message(role="user", content="Hi.")])
    away, said = StoreUnavailable("gone"), said_in(kept.session)
    began_on = outage.standing(session_id)
    first = keeping.keep(began_on, [8, 9], said, request, away, "first")
    second = keeping.keep(began_on, [10], said, request, away, "second")
    assert (first.kept, second.kept) == (True, False)
    assert "lost: another turn was answered meanwhile" in second.not_durable_because
    assert keeping.answer(session_id, request, "second") is None
    caught_up = await outage.catch_up(await store.session(session_id), kept.lease)
    assert list(await store.tokens(caught_up.head)) == [5, 6, 7, 8, 9]


async def test_a_turn_without_the_store_is_one_that_a_drain_waits_for(kept, monkeypatch):
    turns, session_id = kept.turns, kept.session.id
    go_on, request = asyncio.Event(), TurnRequest(messages=[Message(role="user", content="Hi.")])

    async def gone(*_):
        raise StoreUnavailable("gone")
        yield

    async def slow(*_):
        await go_on.wait()
        yield said_in(kept.session)

    monkeypatch.setattr(turns, "_run", gone)
    monkeypatch.setattr(turns, "_run_without_store", slow)
    running = asyncio.create_task(anext(turns.run(session_id, request)))
    await asyncio.sleep(0.05)
    turns.cancelling.drain()
    assert not await turns.cancelling.until_idle(0.05)
    with pytest.raises(Draining):
        await anext(turns.run(session_id, request))
    turns.cancelling.end_all()
    with turns.cancelling.running(kept.session, "late") as late, pytest.raises(Draining):
        await late.awaited(asyncio.sleep(0))  # it had come, and waited for its session
    go_on.set()
    assert (await running).session_id == session_id


async def test_turns_whose_files_are_lost_are_committed_with_those_of_the_turn_before(kept, store):
    session_id, outage = kept.session.id, kept.outage
    names = await store.files.put(kept.session, [b"plan"])
    files = await store.files.put_set(kept.session, FileSet(b"body", tuple(names)))
    for ids, of_turn in (([8], files), ([9], "f" * 64), ([10], None)):
        outage.keep(outage.standing(session_id), KeptTurn(ids, 2, "memory", files=of_turn))
    caught_up = await outage.catch_up(await store.session(session_id), kept.lease)
    assert list(await store.tokens(caught_up.head)) == [5, 6, 7, 8, 9, 10]
    history = await store.ancestors(caught_up.head)
    assert [one.files for one in history] == [None, files, files, files]
    (told,) = outage.lost_files[session_id]
    assert "files of the turn before: the store has lost its own, ffffffffffff…" in told
    assert outage.kept(session_id) == 0


async def test_a_session_is_suspended_with_what_was_kept_of_it(kept, store):
    await store.release(kept.lease)
    suspended = await kept.sessions.suspend(kept.session.id, SuspendRequest(durability="memory"))
    assert kept.outage.kept(kept.session.id) == 0
    assert list(await store.tokens(suspended.head)) == [5, 6, 7]


async def test_of_a_session_that_is_deleted_or_never_was_nothing_is_remembered(kept, store):
    session_id = kept.session.id
    kept.residency.wrote(session_id, 7)
    await store.release(kept.lease)
    await kept.sessions.delete(session_id)
    assert kept.outage.kept(session_id) == 0
    assert kept.outage.standing(session_id) is None
    assert kept.residency.take_written(session_id) == 0
    with pytest.raises(NotFound):
        await kept.sessions.suspend(session_id, SuspendRequest(durability="memory"))
    assert kept.residency.servers(session_id) is None


async def test_a_session_is_given_back_whatever_goes_wrong_at_the_end(kept, store, server):
    await store.release(kept.lease)
    settings = RuntimeSettings(redis_url=server.url, model_dir="unused")
    writers = Writers(store, kept.residency, settings)

    async def at_last():
        raise NotFound("what was to be done at last")

    with pytest.raises(NotFound, match="at last"):
        async with writers.writing(kept.session.id, at_last=at_last):
            pass
    assert await store.writer(kept.session.id) is None
