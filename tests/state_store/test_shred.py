"""Seeds of encrypted objects: agreed upon by racing writers, and with them the object goes."""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
import threading
import time
from functools import partial

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from sealing import VAULT, on_disk

from state_store.cipher import decrypt_frame, encrypt_frame, open_value, seal_value
from state_store.codec import HEADER_BYTES, Frame, check, seal
from state_store.errors import CorruptObject, StoreRefused
from state_store.layout import ObjectNames, ObjectRef
from state_store.object_keys import ObjectKeys
from state_store.objects import ObjectClient
from state_store.vault import new_lineage_seed

FINGERPRINT = "ab" * 16
WRAPPED = VAULT.new_tenant_key("ann")
TENANT_KEY = VAULT.open(WRAPPED, "ann")
TTL = 600


def refs(count: int) -> list[ObjectRef]:
    return [ObjectRef("kv", secrets.token_hex(32)) for _ in range(count)]


class Rank:
    """Reads and writes one rank's encrypted objects."""

    def __init__(self, client: ObjectClient, prefix: str, rank: int = 0) -> None:
        self.client = client
        self.names = ObjectNames(prefix, FINGERPRINT, rank)
        self.keys = ObjectKeys(client, self.names, TENANT_KEY)

    def write(self, ref: ObjectRef, payload: bytes) -> None:
        (key,) = self.keys.for_writing([ref], ttl=TTL)
        frame = Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(payload)))
        seal(frame, names=self.names, ref=ref, encrypt=partial(encrypt_frame, key=key))
        self.client.put([(self.names.key(ref), frame.stored())], ttl=TTL)

    def copy(self, ref: ObjectRef, room: int) -> Frame | None:
        """The object as it is stored, as an archive would have it."""
        frame = Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(room)))
        (size,) = self.client.get_into([(self.names.key(ref), frame.stored())])
        return None if size is None else frame

    def open(self, ref: ObjectRef, frame: Frame) -> bytes | None:
        """Its payload; None if it has no key any more."""
        (key,) = self.keys.for_reading([ref])
        if key is None:
            return None
        check(frame, HEADER_BYTES + len(frame.payload), names=self.names, ref=ref)
        decrypt_frame(frame.header, frame.payload, key)
        return bytes(frame.payload)

    def read(self, ref: ObjectRef, room: int) -> bytes | None:
        frame = self.copy(ref, room)
        return None if frame is None else self.open(ref, frame)


@pytest.fixture
def rank(objects, prefix):
    return Rank(objects, prefix)


def test_what_is_written_is_read_back_by_another_client(server, rank, prefix):
    (ref,) = refs(1)
    rank.write(ref, b"the payload")
    other = ObjectClient(server.url, timeout=5.0)
    assert Rank(other, prefix).read(ref, 11) == b"the payload"
    other.close()


def test_nothing_readable_is_in_the_store(rank, raw, prefix):
    payload = b"a sentence nobody else may read"
    (ref,) = refs(1)
    rank.write(ref, payload)
    stored = [raw.get(key) for key in raw.scan_iter(f"{prefix}:*")]
    assert len(stored) == 2
    for secret in (payload, TENANT_KEY.reveal(), TENANT_KEY.page_salt().encode()):
        assert not any(secret in value for value in stored)


def test_racing_writers_of_the_same_objects_end_up_with_the_same_keys(server, prefix):
    wanted = refs(2000)
    start = threading.Barrier(4)
    found: list[list[tuple[bytes, bytes]]] = []

    def race(order: list[ObjectRef]) -> None:
        client = ObjectClient(server.url, timeout=30.0)
        keys = ObjectKeys(client, ObjectNames(prefix, FINGERPRINT, 0), TENANT_KEY)
        start.wait()
        # In small batches, so that each writer comes first for some of them.
        got = {}
        for at in range(0, len(order), 20):
            batch = order[at : at + 20]
            got.update(zip(batch, keys.for_writing(batch, ttl=TTL), strict=True))
        found.append([(got[ref].id, got[ref].reveal()) for ref in wanted])
        client.close()

    orders = [wanted, wanted[::-1], wanted[700:] + wanted[:700], wanted]
    threads = [threading.Thread(target=race, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(keys == found[0] for keys in found)
    assert len(set(found[0])) == len(wanted)


def test_all_ranks_share_an_objects_key_but_not_its_ciphertext(objects, prefix):
    first, second = Rank(objects, prefix, 0), Rank(objects, prefix, 1)
    (ref,) = refs(1)
    first.write(ref, b"one share")
    second.write(ref, b"its other")
    assert first.read(ref, 9) == b"one share"
    assert second.read(ref, 9) == b"its other"
    (one,), (two,) = first.keys.for_reading([ref]), second.keys.for_reading([ref])
    assert one.reveal() == two.reveal()


def test_an_object_asked_for_twice_has_one_key(rank):
    (ref,) = refs(1)
    one, two = rank.keys.for_writing([ref, ref], ttl=TTL)
    assert one.reveal() == two.reveal()
    assert rank.keys.for_writing([], ttl=TTL) == rank.keys.for_reading([]) == []


def test_a_seed_outlives_its_object(rank, raw):
    (ref,) = refs(1)
    rank.write(ref, b"x")
    seed, stored = rank.names.seed_key(ref), rank.names.key(ref)
    assert raw.ttl(stored) <= TTL < raw.ttl(seed) - TTL / 2

    rank.client.touch([stored], ttl=3 * TTL)
    assert rank.keys.touch([ref], ttl=3 * TTL) == [True]
    assert raw.ttl(stored) <= 3 * TTL < raw.ttl(seed) - TTL / 2

    rank.keys.for_writing([ref], ttl=10 * TTL)
    assert raw.ttl(seed) > 15 * TTL


def test_a_pinned_seed_stays_without_expiry(rank, raw):
    (ref,) = refs(1)
    rank.write(ref, b"x")
    raw.persist(rank.names.seed_key(ref))
    rank.keys.touch([ref], ttl=TTL)
    rank.keys.for_writing([ref], ttl=TTL)
    assert raw.ttl(rank.names.seed_key(ref)) == -1


def test_only_objects_with_a_seed_count_as_there(rank, raw):
    kept, gone = refs(2)
    rank.write(kept, b"x")
    rank.write(gone, b"x")
    raw.delete(rank.names.seed_key(gone))
    assert rank.keys.exists([kept, gone]) == [True, False]
    assert rank.keys.touch([kept, gone], ttl=TTL) == [True, False]
    kept_key, gone_key = rank.keys.for_reading([kept, gone])
    assert kept_key is not None
    assert gone_key is None


def test_shredding_an_object_makes_every_copy_of_it_unreadable(rank, raw):
    kept, gone = refs(2)
    for ref in (kept, gone):
        rank.write(ref, b"the payload")
    copies = {ref: rank.copy(ref, 11) for ref in (kept, gone)}
    raw.delete(rank.names.key(gone), rank.names.seed_key(gone))

    assert rank.open(gone, copies[gone]) is None
    assert rank.open(kept, copies[kept]) == b"the payload"


def test_a_shredded_copy_stays_unreadable_when_the_same_object_is_stored_again(rank, raw):
    (ref,) = refs(1)
    rank.write(ref, b"the payload")
    copy = rank.copy(ref, 11)
    raw.delete(rank.names.key(ref), rank.names.seed_key(ref))
    rank.write(ref, b"the payload")

    with pytest.raises(CorruptObject, match="no longer in the store"):
        rank.open(ref, copy)
    copy.header[108:112] = rank.copy(ref, 11).header[108:112]
    (key,) = rank.keys.for_reading([ref])
    with pytest.raises(CorruptObject, match="authentication tag"):
        decrypt_frame(copy.header, copy.payload, key)
    assert rank.read(ref, 11) == b"the payload"


def test_an_object_written_while_its_seed_was_shredded_is_told_by_its_header(rank, raw):
    """What a pinning script compares: four bytes of the header and of the seed."""
    (ref,) = refs(1)
    rank.write(ref, b"the payload")
    seed_key, key = rank.names.seed_key(ref), rank.names.key(ref)
    assert raw.getrange(key, 108, 111) == raw.getrange(seed_key, 0, 3)
    raw.delete(seed_key)
    rank.keys.for_writing([ref], ttl=TTL)
    assert raw.getrange(key, 108, 111) != raw.getrange(seed_key, 0, 3)


def test_without_the_tenants_record_nothing_of_the_tenant_opens(rank):
    """The store, the seeds and even the master key are there; only the wrapped key is not."""
    (ref,) = refs(1)
    rank.write(ref, b"the payload")
    lineage_seed = new_lineage_seed()
    log = seal_value(b"tokens", TENANT_KEY.lineage_key(lineage_seed), b"place")

    made_again = VAULT.open(VAULT.new_tenant_key("ann"), "ann")
    (key,) = ObjectKeys(rank.client, rank.names, made_again).for_reading([ref])
    copy = rank.copy(ref, 11)
    with pytest.raises(CorruptObject, match="authentication tag"):
        decrypt_frame(copy.header, copy.payload, key)
    with pytest.raises(CorruptObject, match="authentication tag"):
        open_value(log, made_again.lineage_key(lineage_seed), b"place")


def test_a_lineages_values_go_with_its_seed():
    log = seal_value(b"tokens", TENANT_KEY.lineage_key(new_lineage_seed()), b"place")
    with pytest.raises(CorruptObject):
        open_value(log, TENANT_KEY.lineage_key(new_lineage_seed()), b"place")


def test_the_servers_log_keeps_a_deleted_seed_until_it_is_rewritten(own_server, prefix):
    """The reason why shredding has the log rewritten."""
    client = ObjectClient(own_server.url, timeout=5.0)
    rank = Rank(client, prefix)
    (ref,) = refs(1)
    rank.write(ref, b"the payload")
    with redis.Redis.from_url(own_server.url) as raw:
        seed = raw.get(rank.names.seed_key(ref))
        raw.delete(rank.names.key(ref), rank.names.seed_key(ref))
        raw.waitaof(1, 0, 5000)
        assert seed in on_disk(own_server)
        raw.bgrewriteaof()
        deadline = time.monotonic() + 60
        while seed in on_disk(own_server) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert seed not in on_disk(own_server)
    client.close()


def test_a_damaged_seed_is_reported_and_opens_nothing(rank, raw, caplog):
    (ref,) = refs(1)
    rank.write(ref, b"the payload")
    for damaged in (b"", b"short", b"x" * 21):
        raw.set(rank.names.seed_key(ref), damaged)
        with caplog.at_level(logging.ERROR):
            assert rank.keys.for_reading([ref]) == [None]
        assert ref.page_hash in caplog.text
        caplog.clear()
        with pytest.raises(CorruptObject, match=ref.page_hash):
            rank.keys.for_writing([ref], ttl=TTL)


class Vanishing(ObjectClient):
    """A client for whom other writers place seeds, which go again before they are read."""

    def __init__(self, url: str, raw: redis.Redis, rounds: int) -> None:
        super().__init__(url, timeout=5.0)
        self.raw, self.rounds = raw, rounds

    def set_small_nx(self, items, *, ttl):
        if self.rounds:
            self.rounds -= 1
            for key, value in items:
                self.raw.set(key, value[::-1])
        return super().set_small_nx(items, ttl=ttl)

    def get_small(self, keys):
        self.raw.delete(*keys)
        return super().get_small(keys)


def test_a_seed_that_goes_while_writers_agree_is_agreed_upon_again(server, raw, prefix):
    client = Vanishing(server.url, raw, rounds=2)
    (ref,) = refs(1)
    names = ObjectNames(prefix, FINGERPRINT, 0)
    (key,) = ObjectKeys(client, names, TENANT_KEY).for_writing([ref], ttl=TTL)
    assert key.id == raw.getrange(names.seed_key(ref), 0, 3)
    client.close()


def test_a_store_that_keeps_no_seed_is_refused(server, raw, prefix):
    client = Vanishing(server.url, raw, rounds=100)
    keys = ObjectKeys(client, ObjectNames(prefix, FINGERPRINT, 0), TENANT_KEY)
    with pytest.raises(StoreRefused, match="noeviction"):
        keys.for_writing(refs(2), ttl=TTL)
    client.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "shred", "lose seed", "lose object", "read"]),
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    max_size=25,
)


@given(steps=STEPS)
@settings(deadline=None, database=None, max_examples=60)
def test_whatever_is_lost_a_read_gives_the_payload_or_none(steps, server):
    client, prefix = ObjectClient(server.url, timeout=5.0), f"t{secrets.token_hex(4)}"
    ranks, objects = [Rank(client, prefix, number) for number in range(2)], refs(2)
    payloads = {ref: ref.page_hash.encode() for ref in objects}
    readable: dict[tuple[ObjectRef, int], bool] = {}  # of what lies there
    with redis.Redis.from_url(server.url) as raw:
        for step, which, number in steps:
            ref, rank = objects[which], ranks[number]
            keys = [rank.names.key(ref) for rank in ranks]
            if step == "write":
                rank.write(ref, payloads[ref])
                readable.setdefault((ref, number), True)
            elif step == "lose object":
                raw.delete(keys[number])
                readable.pop((ref, number), None)
            elif step == "lose seed":
                raw.delete(rank.names.seed_key(ref))
                readable.update({at: False for at in readable if at[0] == ref})
            elif step == "shred":
                raw.delete(*keys, rank.names.seed_key(ref))
                for each in range(2):
                    readable.pop((ref, each), None)
            elif readable.get((ref, number)):
                assert rank.read(ref, 64) == payloads[ref]
            else:
                assert read_or_none(rank, ref) is None
    client.close()


def read_or_none(rank: Rank, ref: ObjectRef) -> bytes | None:
    with contextlib.suppress(CorruptObject):
        return rank.read(ref, 64)
    return None


def test_seeds_and_keys_are_in_no_log(rank, raw, caplog):
    (ref,) = refs(1)
    with caplog.at_level(logging.DEBUG):
        rank.write(ref, b"the payload")
        rank.read(ref, 11)
        (key,) = rank.keys.for_reading([ref])
        seed = raw.get(rank.names.seed_key(ref))
        raw.set(rank.names.seed_key(ref), seed + b"x")
        rank.keys.for_reading([ref])
    assert "not loaded" in caplog.text
    for secret in (seed[4:], key.reveal(), TENANT_KEY.reveal(), WRAPPED):
        for spelling in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert spelling not in caplog.text
