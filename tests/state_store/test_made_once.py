"""Sessions made under an id that was chosen before, notes on them, and who writes to them."""

import asyncio

import pytest
from author import FINGERPRINT, Author

from state_store.errors import CorruptObject, ForeignTenant, InvalidId
from state_store.layout import TenantKeys
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

VAULT = Vault([MasterKey(bytes(range(32)))])


@pytest.fixture
async def author(server, objects, prefix):
    async with await StateStore.connect(server.url, prefix=prefix, vault=VAULT) as store:
        await store.create_tenant("ann", encrypted=True)
        yield Author(store, objects, prefix)


@pytest.fixture
async def elsewhere(server, prefix, author):
    async with await StateStore.connect(server.url, prefix=prefix, vault=VAULT) as store:
        yield store


@pytest.mark.parametrize("tenant", ["ann", "ben"])
async def test_whoever_makes_a_session_again_finds_it_as_it_is(author, elsewhere, tenant):
    store = author.store
    chosen = store.new_session_id()

    async def make(through, number):
        return await through.create_session(
            tenant=tenant, fingerprint=FINGERPRINT, meta={"by": number}, session_id=chosen
        )

    made = await asyncio.gather(*(make((store, elsewhere)[n % 2], n) for n in range(6)))
    assert {one.id for one in made} == {chosen}
    assert len({one.body.meta["by"] for one in made}) == 1
    await author.turn(chosen, range(9))
    again = await make(elsewhere, 99)
    assert again == await store.session(chosen)
    assert list(await elsewhere.tokens(again.head)) == list(range(9))
    assert [one.id for one in await store.sessions(tenant)] == [chosen]
    assert (await store.check_integrity()).problems == []


async def test_whoever_loses_the_race_to_make_a_session_reads_it_under_the_winners_seed(
    author, elsewhere
):
    for _ in range(40):
        chosen = author.store.new_session_id()
        made = await asyncio.gather(
            *(
                (author.store, elsewhere)[n % 2].create_session(
                    tenant="ann", fingerprint=FINGERPRINT, meta={"by": n}, session_id=chosen
                )
                for n in range(12)
            ),
            return_exceptions=True,
        )
        assert [one for one in made if one != made[0]] == []
        assert await author.store.session(chosen) == made[0]


async def test_a_fork_is_made_once_and_not_moved_when_it_is_made_again(author, elsewhere):
    store = author.store
    session = await author.session("ann", range(9))
    chosen = store.new_session_id(beside=session.id)
    made = await asyncio.gather(
        *(one.fork(session.id, fork_id=chosen) for one in (store, elsewhere))
    )
    assert made[0] == made[1]
    await author.turn(chosen, range(20, 25))
    again = await elsewhere.fork(session.id, fork_id=chosen)
    assert again.head != session.head
    assert await store.branch_at(session.id, tokens=3, fork_id=chosen) == again
    assert len(await store.sessions("ann")) == 2
    assert (await store.check_integrity()).problems == []


async def test_a_note_on_a_session_is_sealed_as_its_tokens_are(author, elsewhere, raw, prefix):
    store, secret = author.store, b"meet me at noon"
    for tenant in ("ann", "ben"):
        session = await author.session(tenant, range(9))
        await store.session_notes.put(session, "turn", secret, ttl=60)
        assert await elsewhere.session_notes.get(session, "turn") == secret
        assert await store.session_notes.get(session, "other") is None
        stored = [raw.dump(key) for key in raw.scan_iter(f"{prefix}:*{session.id}*", count=1000)]
        assert any(secret in one for one in stored) is (tenant == "ben")
    sealed = await author.session("ann", range(9))
    raw.set(TenantKeys(prefix, "ann").note(f"turn:{sealed.id}"), secret, px=60_000)
    with pytest.raises(CorruptObject):
        await store.session_notes.get(sealed, "turn")
    await store.session_notes.delete(sealed, "turn")
    assert await store.session_notes.get(sealed, "turn") is None


async def test_notes_on_a_session_are_deleted_with_it(author, raw, prefix):
    store = author.store
    session, other = await author.session("ann", range(9)), await author.session("ann", range(9))
    for name in ("a", "b"):
        await store.session_notes.put(session, name, b"1", ttl=600)
    await store.session_notes.put(other, "a", b"2", ttl=600)
    await store.session_notes.put(session, "gone", b"3", ttl=0.001)
    await store.session_notes.delete(session, "b")
    assert raw.exists(f"{prefix}:{{tenant:ann}}:notes-on:{session.id}")
    await store.delete_session(session.id)
    assert list(raw.scan_iter(f"{prefix}:*{session.id}*", count=1000)) == []
    assert await store.session_notes.get(other, "a") == b"2"


async def test_the_list_of_a_session_s_notes_is_of_those_that_live(author, raw, prefix):
    session = await author.session("ann", range(9))
    key = f"{prefix}:{{tenant:ann}}:notes-on:{session.id}"
    for number in range(5):
        await author.store.session_notes.put(session, str(number), b"1", ttl=0.001)
        while await author.store.session_notes.get(session, str(number)) is not None:
            pass
    await author.store.session_notes.put(session, "last", b"1", ttl=600)
    assert raw.zcard(key) == 1
    assert raw.pttl(key) > 500_000


async def test_the_writer_of_a_session_is_known_while_it_holds_the_lease(author):
    store = author.store
    session = await author.session("ann", range(9))
    assert await store.writer(session.id) is None
    lease = await store.acquire(session.id, ttl=30, owner="a:b")
    assert await store.writer(session.id) == "a:b"
    await store.release(lease)
    assert await store.writer(session.id) is None


async def test_an_id_that_was_chosen_is_a_sessions_and_of_the_tenants_own_lineage(
    author, raw, prefix
):
    store = author.store
    theirs = await author.session("ann", range(9))
    beside = store.new_session_id(beside=theirs.id)
    own = await author.session("ben")
    before = set(raw.keys(f"{prefix}:{{*}}:sess*"))

    def create(chosen):
        return store.create_session(tenant="ben", fingerprint=FINGERPRINT, session_id=chosen)

    with pytest.raises(ForeignTenant):
        await create(theirs.id)
    for refused in (
        create(theirs.head),
        create(beside),
        store.fork(own.id, fork_id=own.id.replace("ses", "snp")),
        store.fork(own.id, fork_id=beside),
        store.branch_at(own.id, tokens=0, fork_id=beside),
    ):
        with pytest.raises(InvalidId):
            await refused
    assert set(raw.keys(f"{prefix}:{{*}}:sess*")) == before
    assert [one.id for one in await store.sessions("ben")] == [own.id]
    assert (await store.check_integrity()).problems == []
