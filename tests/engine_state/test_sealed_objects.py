"""The linker's threads for encrypted tenants: sealed on the way out, opened on the way in."""

import secrets

import pytest
import redis
import torch

from engine.linker.offload import Offload
from engine.replies import Settled, settled_of
from state_store.errors import VaultLocked
from state_store.forms import FormName
from state_store.layout import ObjectRef
from state_store.payloads import Outcome
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

from .rank import FORMAT, HASHES, WIDTH, Rank, kv

MASTER = MasterKey(bytes(range(32)))
OTHER = MasterKey(bytes(range(1, 33)))


class _Tenant:
    """What an engine is told of an encrypted tenant's session."""

    def __init__(self, name, salt, form):
        self.name, self.salt, self.form = name, salt, form


@pytest.fixture
def prefix():
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def store(store_server, prefix):
    async with await StateStore.connect(
        store_server.url, prefix=prefix, vault=Vault([MASTER])
    ) as store:
        yield store


@pytest.fixture
async def ann(store):
    return await tenant(store, "ann", encrypted=True)


async def tenant(store, name, **how):
    await store.create_tenant(name, **how)
    session = await store.create_session(tenant=name, fingerprint=FORMAT)
    return _Tenant(name, await store.salt(session), FormName.of(session.body))


@pytest.fixture
def engine(store_server, prefix):
    """Makes ranks of engines with these master keys."""
    made = []

    def make(*keys):
        made.append(Rank(store_server.url, prefix=prefix, vault=Vault(keys)))
        return made[-1]

    yield make
    for rank in made:
        rank.close()


def everything(url, prefix):
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as raw:
        return {key: raw.dump(key) for key in raw.scan_iter(f"{prefix}:*")}


def loaded(rank, salt):
    """The first page of the store, in the device's last row; why not."""
    rank.pages[7] = 0
    rank.load(HASHES[:1], [7], salt)
    assert rank.landed.wait(10)
    return rank.pages[7].clone(), rank.loader.take_failed(0).get("request")


def test_what_one_engine_seals_another_opens_to_the_bit(engine, ann, store_server, prefix):
    first, second = engine(MASTER), engine(MASTER)
    plain = first.pages.clone()
    assert first.store(ann.salt)
    stored = everything(store_server.url, prefix)
    rows = [bytes(row.tolist()) for row in plain]
    assert not any(row[:16] in dump for dump in stored.values() for row in rows)
    assert torch.equal(first.pages, plain)  # the device's own is as it was
    page, why = loaded(second, ann.salt)
    assert (why, page.tolist()) == (None, plain[0].tolist())
    found = second.control().prefetch({"hashes": HASHES, "session": None, "form": [*ann_of(ann)]})
    assert (found["pages"], found["state"], found["reason"]) == (len(HASHES), True, None)


def ann_of(one):
    return one.form.tenant, one.form.tenant_id, one.form.economy


@pytest.mark.parametrize(("keys", "held"), [((), "none"), ((OTHER,), OTHER.id)])
def test_an_engine_without_the_key_stores_nothing_and_says_whose_it_is(
    engine, ann, store_server, prefix, keys, held
):
    rank = engine(*keys)
    before = everything(store_server.url, prefix)
    assert not rank.store(ann.salt)
    assert everything(store_server.url, prefix).keys() == before.keys()
    settled = rank.control().settle({"hashes": HASHES, "timeout": 5, "form": [*ann_of(ann)]})
    assert settled["failed"] == 2 * len(HASHES)
    assert f"tenant ann is encrypted under master key {MASTER.id}" in settled["refused"]
    assert f"this process has {held}" in settled["refused"]
    assert settled_of([settled], HASHES) == Settled((), settled["refused"])
    with pytest.raises(VaultLocked, match="tenant ann"):
        rank.control().prefetch({"hashes": HASHES, "session": None, "form": [*ann_of(ann)]})
    engine(MASTER).store(ann.salt)
    page, why = loaded(rank, ann.salt)
    assert "tenant ann is encrypted" in why
    assert not page.any()


def test_a_locked_tenant_holds_up_nobody_else(engine, ann):
    rank = engine()
    assert not rank.store(ann.salt)
    assert rank.store(None)  # at once: the store is well
    _, why = loaded(rank, ann.salt)
    assert "ann" in why
    assert not rank.loader.distrusts_store
    rank.staged["kv"].discard_all()
    page, why = loaded(rank, None)
    assert (why, page.tolist()) == (None, rank.pages[0].tolist())


async def test_nobody_has_objects_sealed_as_a_tenant_whose_salt_they_do_not_know(
    engine, ann, store, store_server, prefix
):
    bob = await tenant(store, "bob", encrypted=True)
    secret = bob.salt.rpartition(":")[2]
    rank = engine(MASTER)
    before = everything(store_server.url, prefix)
    for salt in (
        ann.salt.rpartition(":")[0] + ":" + secret,
        ann.salt.rpartition(":")[0] + ":",
        "form:ann",
        "form:nobody:00:lossless:00",
    ):
        assert not rank.store(salt)
    assert everything(store_server.url, prefix).keys() == before.keys()


async def test_a_deleted_tenants_key_is_forgotten(engine, ann, store, monkeypatch):
    rank = engine(MASTER)
    assert rank.store(ann.salt)
    await store.delete_tenant("ann")
    monkeypatch.setattr("state_store.tenant_forms.KNOWN_SECONDS", 0.0)
    assert not rank.store(ann.salt)
    _, why = loaded(rank, ann.salt)
    assert "tenant ann was deleted" in why


def test_a_write_that_failed_is_sealed_anew_from_the_device(engine, ann, store_server):
    """Frames keep headers, and what is gathered into them later is not taken for sealed."""
    rank, reader = engine(MASTER), engine(MASTER)
    assert rank.store(ann.salt)
    rank.pages += 1
    rank.offloader.submit(Offload((kv(["a" * 64, "b" * 64], [0, 1]),), (), salt=ann.salt))
    rank.offloader.submit(Offload((kv(["c" * 64], [2]),), ()))  # a plain one in the same frames
    assert rank.offloader.settle(timeout=10)
    for name, row, salt in (("a", 0, ann.salt), ("b", 1, ann.salt), ("c", 2, None)):
        reader.load([name * 64], [7], salt)
        assert reader.landed.wait(10)
        assert reader.loader.take_failed(0) == {}
        assert reader.pages[7].tolist() == rank.pages[row].tolist()
        reader.pages[7] = 0


def test_a_sealed_object_that_is_changed_is_not_loaded_and_is_stored_again(
    engine, ann, store_server, prefix
):
    rank = engine(MASTER)
    assert rank.store(ann.salt)
    key = rank.names.key(ObjectRef("kv", HASHES[0]))
    with redis.Redis(unix_socket_path=store_server.url.removeprefix("unix://")) as raw:
        raw.setrange(key, 130, b"\xff\x00\xff")
    _, why = loaded(rank, ann.salt)
    assert "1 corrupt" in why
    rank.pages[7] = torch.arange(7 * WIDTH, 8 * WIDTH).to(torch.uint8)
    assert rank.store(ann.salt)
    payloads = rank.doors().of_salt(ann.salt)
    frames = rank.frames(1)
    assert payloads.read(frames.objects("kv", HASHES[0], 0)) == [Outcome.OK]
    payloads.close()


async def test_renewing_and_looking_take_a_lost_seed_for_a_lost_object(
    engine, ann, store_server, prefix
):
    rank = engine(MASTER)
    assert rank.store(ann.salt)
    control, form = rank.control(), [*ann_of(ann)]
    payload = {"hashes": HASHES, "form": form, "session": None}
    assert control.renew(payload) == {"forgotten": 0}
    with redis.Redis(unix_socket_path=store_server.url.removeprefix("unix://")) as raw:
        raw.delete(rank.names.seed_key(ObjectRef("state", HASHES[-1])))
    assert control.renew(payload) == {"forgotten": 1}
    assert not control.prefetch(payload)["state"]


async def test_rounded_pages_of_an_encrypted_tenant_come_back_nearly_the_same(
    engine, store, store_server, prefix
):
    cleo = await tenant(store, "cleo", encrypted=True, economy="compact")
    rank, reader = engine(MASTER), engine(MASTER)
    numbers = torch.linspace(-1, 1, 8 * WIDTH // 4).reshape(8, WIDTH // 4)
    rank.pages.copy_(numbers.view(torch.uint8))
    assert rank.store(cleo.salt)
    page, why = loaded(reader, cleo.salt)
    assert why is None
    assert (page.view(torch.float32) - numbers[0]).abs().max() < 1 / 250
    assert not torch.equal(page.view(torch.float32), numbers[0])
