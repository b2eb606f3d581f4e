"""A session's feed is short, in order, and goes with its session."""

from state_store.feeds import START, Post
from state_store.layout import LineageKeys, lineage_of


def place(prefix, session):
    return LineageKeys(prefix, lineage_of(session.id)).feed(session.id)


def values(found, session):
    return [entry.value for entry in found.get(session.id, [])]


async def test_posts_are_read_in_order_from_any_place(writer):
    feeds = writer.store.feeds
    one, other = await writer.session([1, 2, 3, 4]), await writer.session([5, 6, 7, 8])
    assert await feeds.last(one.id) == START
    await feeds.publish([Post(one.id, b"1"), Post(other.id, b"x"), Post(one.id, b"2")])
    found = await feeds.after({one.id: START, other.id: START})
    assert (values(found, one), values(found, other)) == ([b"1", b"2"], [b"x"])
    first, second = (entry.place for entry in found[one.id])
    assert (first.number, second.number) == (1, 2)
    assert values(await feeds.after({one.id: first}), one) == [b"2"]
    assert await feeds.after({one.id: second, other.id: await feeds.last(other.id)}) == {}


async def test_a_feed_is_short_and_says_what_it_still_has(writer):
    feeds = writer.store.feeds
    session = await writer.session([1, 2, 3, 4])
    await feeds.publish([Post(session.id, b"first")])
    first = await feeds.last(session.id)
    assert await feeds.find(session.id, first.id) == first
    await feeds.publish([Post(session.id, b"%d" % n) for n in range(500)])
    assert await feeds.find(session.id, first.id) is None
    place, read = START, []
    while found := await feeds.after({session.id: place}):
        read += values(found, session)
        place = found[session.id][-1].place
    assert read == [b"%d" % n for n in range(500 - len(read), 500)]
    assert 64 < len(read) < 256
    assert place.number == 501
    for no_id in ("", "yesterday", "1", "1-x"):
        assert await feeds.find(session.id, no_id) is None


async def test_it_expires_and_goes_with_its_session_but_for_the_last_word(writer, raw):
    feeds = writer.store.feeds
    session = await writer.session([1, 2, 3, 4])
    fork = await writer.store.fork(session.id)
    await feeds.publish([Post(session.id, b"1"), Post(fork.id, b"2")])
    assert 0 < raw.pttl(place(writer.prefix, session)) <= 600_000
    assert (await writer.store.check_integrity()).problems == []
    await writer.store.delete_session(session.id)
    assert not raw.exists(place(writer.prefix, session))
    await feeds.publish([Post(session.id, b"late")])
    assert not raw.exists(place(writer.prefix, session))
    await feeds.publish([Post(session.id, b"deleted", is_last=True), Post(session.id, b"late")])
    assert values(await feeds.after({session.id: START}), session) == [b"deleted"]
    assert 0 < raw.pttl(place(writer.prefix, session)) <= 60_000
    assert values(await feeds.after({fork.id: START}), fork) == [b"2"]


async def test_it_goes_with_a_session_whose_record_is_lost(writer, raw):
    session = await writer.session([1, 2, 3, 4])
    await writer.store.feeds.publish([Post(session.id, b"1")])
    raw.delete(LineageKeys(writer.prefix, lineage_of(session.id)).session(session.id))
    await writer.store.delete_session(session.id)
    assert not raw.exists(place(writer.prefix, session))
