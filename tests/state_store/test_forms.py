"""Stored forms: what is written comes back, sealed once, and nothing is read as what it is not."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from state_store.archive import ArchiveReader, open_archive
from state_store.archive.names import Generation, object_name
from state_store.codec import HEADER_BYTES, Frame
from state_store.encodings import ECONOMIES, LOSSLESS, Segment
from state_store.errors import (
    ArchiveUnavailable,
    CorruptObject,
    StoreUnavailable,
    UnknownEconomy,
    VaultLocked,
)
from state_store.fingerprint import Fingerprint
from state_store.forms import PLAIN, StoredForm, salt_of_class
from state_store.layout import PART_BYTES, Kind, ObjectNames, ObjectRef
from state_store.objects import ObjectClient
from state_store.payloads import Outcome, Payloads
from state_store.vault import MasterKey, TenantKey

STATE_BYTES = PART_BYTES + 8192  # two parts
FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="bfloat16", conv_dtype="bfloat16",
    ssm_dtype="float32", page_size=4, kv_payload_bytes=4096, state_payload_bytes=STATE_BYTES,
    kv_segments=(Segment("bfloat16", 4096),),
    state_segments=(Segment("float32", STATE_BYTES - 1024), Segment("bfloat16", 1024)),
    tp_size=1, draft="none", bigram=False, engine="e",
)  # fmt: skip
ANN, BEN = TenantKey(b"a" * 32), TenantKey(b"b" * 32)
TTL = 600


def form(economy: str = LOSSLESS, key: TenantKey | None = None) -> StoredForm:
    return StoredForm.of(FINGERPRINT, economy=economy, tenant_key=key)


ENCRYPTED = form(key=ANN)
FORMS = [form(economy, key) for economy in ECONOMIES for key in (None, ANN)]


def names_in(prefix: str) -> ObjectNames:
    return ObjectNames(prefix, FINGERPRINT.id, 0)


def payload_of(kind: Kind) -> bytearray:
    """Normal numbers in the dtypes of the fingerprint."""
    made = bytearray()
    for dtype, size in FINGERPRINT.layout(kind).segments:
        width = 4 if dtype == "float32" else 2
        numbers = np.random.default_rng(7).normal(size=size // width).astype(np.float32)
        bits = numbers if width == 4 else (numbers.view(np.uint32) >> 16).astype(np.uint16)
        made += bits.tobytes()
    return made


def numbers_in(kind: Kind, payload: bytes) -> np.ndarray:
    found, at = [], 0
    for dtype, size in FINGERPRINT.layout(kind).segments:
        piece, at = payload[at : at + size], at + size
        if dtype == "float32":
            found.append(np.frombuffer(piece, np.float32))
        else:
            found.append((np.frombuffer(piece, np.uint16).astype(np.uint32) << 16).view(np.float32))
    return np.concatenate(found)


def frame_over(payload: bytes | bytearray) -> Frame:
    return Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(payload)))


def items_of(kind: Kind, payload: bytes, page_hash: str) -> list[tuple[ObjectRef, Frame]]:
    """The objects that a page or state is stored as, each with a frame of its own."""
    starts = range(0, len(payload), PART_BYTES)
    return [
        (ObjectRef(kind, page_hash, part), frame_over(payload[start : start + PART_BYTES]))
        for part, start in enumerate(starts)
    ]


def contents(items: list[tuple[ObjectRef, Frame]]) -> bytes:
    return b"".join(bytes(frame.payload) for _, frame in items)


def one_item(payload: bytes | None = None) -> list[tuple[ObjectRef, Frame]]:
    return items_of("kv", payload_of("kv") if payload is None else payload, secrets.token_hex(32))


def empty(items: list[tuple[ObjectRef, Frame]]) -> list[tuple[ObjectRef, Frame]]:
    """Frames for reading the same objects into."""
    return [(ref, frame_over(bytes(len(frame.payload)))) for ref, frame in items]


def form_id(stored: StoredForm) -> str:
    return stored.economy.name + (" encrypted" if stored.tenant_key else "")


@pytest.mark.parametrize("stored", FORMS, ids=form_id)
@pytest.mark.parametrize("kind", ["kv", "state"])
def test_every_form_gives_back_what_its_class_keeps(objects, raw, prefix, stored, kind):
    payloads = Payloads(objects, names_in(prefix), form=stored)
    payload = bytes(payload_of(kind))
    written = items_of(kind, payload, secrets.token_hex(32))
    refs = [ref for ref, _ in written]
    assert payloads.exists(refs) == [False] * len(refs)
    sent = payloads.write(written, ttl=TTL)
    assert payloads.exists(refs) == payloads.touch(refs, ttl=TTL) == [True] * len(refs)

    read = empty(written)
    assert payloads.read(read) == [Outcome.OK] * len(read)
    found = contents(read)
    assert sent == sum(raw.strlen(payloads._names.key(ref)) for ref in refs)
    if stored.economy.encoding(kind).name == "RAW":
        assert found == payload
        assert sent == len(payload) + HEADER_BYTES * len(refs)
    else:
        off = np.abs(numbers_in(kind, found) - numbers_in(kind, payload))
        assert 0 < off.max() < 0.3
        assert sent < len(payload) * (0.6 if kind == "kv" else 0.3)
    if stored.tenant_key is not None:
        assert payload[:64] not in raw.get(payloads._names.key(refs[0]))


def test_numbers_that_a_class_cannot_hold_are_stored_exactly_and_counted(objects, prefix, caplog):
    payload = payload_of("kv")
    payload[:2] = b"\xc0\x7f"  # NaN
    payloads = Payloads(objects, names_in(prefix), form=form("compact", ANN))
    written = one_item(payload)
    payloads.write(written, ttl=TTL)
    read = empty(written)
    assert payloads.read(read) == [Outcome.OK]
    assert contents(read) == payload
    assert payloads.refused == 1
    assert "NaN" in caplog.text


class LosesReplies(ObjectClient):
    """A client that does not hear that its writes arrived."""

    lost = 0

    def put(self, items, *, ttl):
        super().put(items, ttl=ttl)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("the reply was lost")


@pytest.fixture
def lossy_line(server):
    client = LosesReplies(server.url, timeout=5.0)
    yield client
    client.close()


@pytest.mark.parametrize("arrived", [True, False], ids=["stored by the first", "not stored"])
@pytest.mark.parametrize("stored", FORMS, ids=form_id)
def test_a_write_that_is_repeated_changes_its_frames_no_second_time(
    lossy_line, raw, prefix, stored, arrived
):
    payloads = Payloads(lossy_line, names_in(prefix), form=stored)
    written = one_item()
    once = one_item(contents(written))
    Payloads(lossy_line, names_in(f"{prefix}b"), form=stored).write(once, ttl=TTL)
    expected = empty(once)
    Payloads(lossy_line, names_in(f"{prefix}b"), form=stored).read(expected)

    lossy_line.lost = 2
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            payloads.write(written, ttl=TTL)
        if not arrived:
            raw.delete(payloads._names.key(written[0][0]))
    payloads.write(written, ttl=TTL)
    read = empty(written)
    assert payloads.read(read) == [Outcome.OK]
    assert contents(read) == contents(expected)


@pytest.mark.parametrize("stored", FORMS, ids=form_id)
def test_a_frame_that_is_filled_again_is_sealed_again(objects, prefix, stored):
    payloads = Payloads(objects, names_in(prefix), form=stored)
    first = one_item()
    payload = contents(first)
    payloads.write(first, ttl=TTL)
    expected = empty(first)
    payloads.read(expected)
    (ref, frame), other = first[0], ObjectRef("kv", secrets.token_hex(32))
    for same_frame in ((ref, frame), (other, frame)):
        frame.payload[:] = payload
        payloads.rewrite([same_frame], ttl=TTL)
        read = empty([same_frame])
        assert payloads.read(read) == [Outcome.OK]
        assert contents(read) == contents(expected)


def test_a_write_whose_seed_was_destroyed_in_between_stores_nothing(lossy_line, raw, prefix):
    payloads = Payloads(lossy_line, names_in(prefix), form=ENCRYPTED)
    written = one_item()
    ref, frame = written[0]
    lossy_line.lost = 1
    with pytest.raises(StoreUnavailable):
        payloads.write(written, ttl=TTL)
    raw.delete(payloads._names.key(ref), payloads._names.seed_key(ref))
    with pytest.raises(CorruptObject, match="fill its frame again"):
        payloads.write(written, ttl=TTL)
    assert not raw.exists(payloads._names.key(ref))
    frame.payload[:] = payload_of("kv")
    payloads.write(written, ttl=TTL)
    assert payloads.read(empty(written)) == [Outcome.OK]


def test_an_object_without_its_seed_is_not_there(objects, raw, prefix):
    payloads = Payloads(objects, names_in(prefix), form=ENCRYPTED)
    kept, gone = one_item(), one_item()
    payloads.write(kept + gone, ttl=TTL)
    raw.delete(payloads._names.seed_key(gone[0][0]))
    refs = [kept[0][0], gone[0][0]]
    assert payloads.exists(refs) == payloads.touch(refs, ttl=TTL) == [True, False]
    assert payloads.read(empty(kept + gone)) == [Outcome.OK, Outcome.MISSING]


def test_an_object_that_lies_under_a_destroyed_seed_is_corrupt_until_it_is_rewritten(
    objects, raw, prefix
):
    payloads = Payloads(objects, names_in(prefix), form=ENCRYPTED)
    written = one_item()
    payload = contents(written)
    payloads.write(written, ttl=TTL)
    raw.delete(payloads._names.seed_key(written[0][0]))
    again = one_item(payload)
    again = [(written[0][0], again[0][1])]
    payloads.write(again, ttl=TTL)  # what lies there stays
    assert payloads.read(empty(again)) == [Outcome.CORRUPT]
    again[0][1].payload[:] = payload
    payloads.rewrite(again, ttl=TTL)
    read = empty(again)
    assert payloads.read(read) == [Outcome.OK]
    assert contents(read) == payload


def test_no_lossless_reader_takes_rounded_bytes(objects, prefix, caplog):
    written = one_item()
    Payloads(objects, names_in(prefix), form=form("kv-int8")).write(written, ttl=TTL)
    assert Payloads(objects, names_in(prefix)).read(empty(written)) == [Outcome.CORRUPT]
    other = Payloads(objects, names_in(prefix), form=form("kv-fp8"))
    assert other.read(empty(written)) == [Outcome.CORRUPT]
    assert "economy class" in caplog.text


def test_a_reader_without_the_key_learns_that_it_is_locked_out(objects, prefix):
    written = one_item()
    Payloads(objects, names_in(prefix), form=ENCRYPTED).write(written, ttl=TTL)
    with pytest.raises(VaultLocked, match="master key"):
        Payloads(objects, names_in(prefix)).read(empty(written))


def test_another_tenants_key_opens_nothing(objects, prefix):
    written = one_item()
    payload = contents(written)
    Payloads(objects, names_in(prefix), form=ENCRYPTED).write(written, ttl=TTL)
    read = empty(written)
    assert Payloads(objects, names_in(prefix), form=form(key=BEN)).read(read) == [Outcome.CORRUPT]
    assert contents(read) != payload


def test_racing_writers_of_an_encrypted_object_both_leave_it_readable(server, prefix):
    clients = [ObjectClient(server.url, timeout=5.0) for _ in range(2)]
    one, two = (Payloads(client, names_in(prefix), form=ENCRYPTED) for client in clients)
    written = one_item()
    again = [(written[0][0], frame_over(contents(written)))]
    payload = contents(written)
    one.write(written, ttl=TTL)
    two.write(again, ttl=TTL)
    for payloads in (one, two):
        read = empty(written)
        assert payloads.read(read) == [Outcome.OK]
        assert contents(read) == payload
        payloads.close()


def test_classes_have_salts_of_their_own():
    salts = {salt_of_class("5a17", economy) for economy in ECONOMIES}
    assert len(salts) == len(ECONOMIES)
    assert salt_of_class("5a17", LOSSLESS) == "5a17"
    assert salt_of_class("5a18", "compact") not in salts


def test_there_is_no_class_of_another_name():
    with pytest.raises(UnknownEconomy):
        form("tiny")
    assert PLAIN.plain
    assert not ENCRYPTED.plain


class Shelf:
    """Payloads with an archive, and objects put there as `archive/archivist.py` does."""

    def __init__(self, client, raw, prefix, folder, stored) -> None:
        self.raw, self.names, self.folder = raw, names_in(prefix), folder
        self.archive = open_archive(f"file://{folder}")
        self.payloads = self.reader(client, stored)

    def reader(self, client, stored) -> Payloads:
        reader = ArchiveReader(self.archive, self.names)
        return Payloads(client, self.names, form=stored, archive=reader)

    def move_out(self, ref: ObjectRef) -> None:
        value = self.raw.getdel(self.names.key(ref))
        generation = Generation.new("ab" * 8, 1, 1)
        self.archive.put(object_name(self.names, ref, generation), memoryview(value))
        self.raw.set(self.names.cold_key(ref), str(generation))


@pytest.fixture(params=[PLAIN, form("compact", ANN)], ids=form_id)
def shelf(objects, raw, prefix, tmp_path, request):
    made = Shelf(objects, raw, prefix, tmp_path, request.param)
    yield made
    made.payloads.close()


def test_archived_objects_are_read_and_count_as_there(shelf):
    here, cold, nowhere = one_item(), one_item(), one_item()
    shelf.payloads.write(here + cold, ttl=TTL)
    expected = empty(here + cold)
    assert shelf.payloads.read(expected) == [Outcome.OK, Outcome.OK]
    shelf.move_out(cold[0][0])
    read = empty(here + cold + nowhere)
    assert shelf.payloads.read(read) == [Outcome.OK, Outcome.OK, Outcome.MISSING]
    assert contents(read[:2]) == contents(expected)
    refs = [ref for ref, _ in read]
    assert shelf.payloads.exists(refs) == [True, True, False]
    assert shelf.payloads.touch(refs, ttl=TTL) == [True, True, False]


def test_an_archived_object_without_its_seed_is_not_there(objects, raw, prefix, tmp_path):
    shelf = Shelf(objects, raw, prefix, tmp_path, ENCRYPTED)
    written = one_item()
    shelf.payloads.write(written, ttl=TTL)
    shelf.move_out(written[0][0])
    raw.delete(shelf.names.seed_key(written[0][0]))
    assert shelf.payloads.exists([written[0][0]]) == [False]
    assert shelf.payloads.read(empty(written)) == [Outcome.MISSING]
    shelf.payloads.close()


def test_what_is_damaged_in_redis_is_read_from_the_archive(shelf, raw):
    written = one_item()
    shelf.payloads.write(written, ttl=TTL)
    expected = empty(written)
    shelf.payloads.read(expected)
    shelf.move_out(written[0][0])
    raw.set(shelf.names.key(written[0][0]), b"damaged")
    read = empty(written)
    assert shelf.payloads.read(read) == [Outcome.OK]
    assert contents(read) == contents(expected)


def test_what_is_damaged_in_the_archive_is_never_given_out(shelf, raw):
    written, malformed = one_item(), one_item()
    shelf.payloads.write(written + malformed, ttl=TTL)
    for ref, _ in written + malformed:
        shelf.move_out(ref)
    raw.set(shelf.names.cold_key(malformed[0][0]), b"not a generation")
    for path in shelf.folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert shelf.payloads.read(empty(written + malformed)) == [Outcome.CORRUPT, Outcome.MISSING]


def test_an_archive_that_cannot_be_read_is_said_to_be(shelf):
    written = one_item()
    shelf.payloads.write(written, ttl=TTL)
    shelf.move_out(written[0][0])
    for path in shelf.folder.rglob("*"):
        if path.is_file():
            path.unlink()
            path.mkdir()
    with pytest.raises(ArchiveUnavailable):
        shelf.payloads.read(empty(written))


class Returning(ObjectClient):
    """A client that an object is brought back under, right before it asks for cold keys."""

    def __init__(self, url, bring_back) -> None:
        super().__init__(url, timeout=5.0)
        self.bring_back = bring_back

    def get_small(self, keys):
        if keys and b":cold:" in keys[0]:
            self.bring_back()
        return super().get_small(keys)

    def exists(self, keys):
        if keys and b":cold:" in keys[0]:
            self.bring_back()
        return super().exists(keys)


def test_what_comes_back_while_it_is_looked_for_is_found(server, raw, prefix, tmp_path):
    shelf = Shelf(ObjectClient(server.url, timeout=5.0), raw, prefix, tmp_path, ENCRYPTED)
    written = one_item()
    payload = contents(written)
    shelf.payloads.write(written, ttl=TTL)
    ref = written[0][0]
    value = raw.get(shelf.names.key(ref))

    def bring_back() -> None:
        raw.set(shelf.names.key(ref), value)
        raw.delete(shelf.names.cold_key(ref))

    client = Returning(server.url, bring_back)
    returning = shelf.reader(client, ENCRYPTED)
    shelf.move_out(ref)
    read = empty(written)
    assert returning.read(read) == [Outcome.OK]
    assert contents(read) == payload
    shelf.move_out(ref)
    assert returning.exists([ref]) == [True]
    shelf.move_out(ref)
    assert returning.touch([ref], ttl=TTL) == [True]
    returning.close()
    shelf.payloads.close()


def test_a_tenants_key_is_in_no_repr():
    assert MasterKey(b"m" * 32).reveal().hex() not in repr(ENCRYPTED)
    assert ANN.reveal().hex() not in repr(ENCRYPTED)
    assert repr(ANN.reveal())[2:-1] not in repr(ENCRYPTED)
