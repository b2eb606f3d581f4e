"""The linker's threads over a real store, with pages of a device that is plain memory."""

import secrets
import threading
from types import SimpleNamespace

import pytest
import torch

from engine.linker.backlog import Backlog
from engine.linker.config import LinkerConfig
from engine.linker.control import Control
from engine.linker.device import Holds
from engine.linker.frames import Frames
from engine.linker.index import StoredIndex
from engine.linker.load import Load, Loader
from engine.linker.offload import Offload, Offloader, Rows
from engine.linker.progress import Progress
from engine.linker.ranks import Ranks
from engine.linker.segments import ObjectLayout, Segment
from engine.linker.staging import StagedObjects
from engine.linker.steps import Steps
from state_store.errors import StoreUnavailable
from state_store.layout import ObjectNames
from state_store.objects import ObjectClient
from state_store.payloads import Payloads

ROOM = 4  # frames of each kind
HASHES = [f"{number:064x}" for number in range(1, 9)]
READY = SimpleNamespace(synchronize=lambda: None)


def kv(hashes, rows):
    return Rows("kv", hashes, torch.tensor(rows)[:, None])


class _Rank:
    """The parts of one rank's linker. pages: uint8[8, 64], the device; `HASHES` name the pages
    and states of the store, in the order of its rows."""

    def __init__(self, url):
        self.url = url
        self.pages = torch.arange(8 * 64, dtype=torch.uint8).reshape(8, 64)
        self.layout = ObjectLayout((Segment(0, self.pages, 0, "uint8"),))
        self.names = ObjectNames(f"t{secrets.token_hex(4)}", "f" * 32, 0)
        self.index = StoredIndex()
        self.staged = {kind: StagedObjects(self.frames(ROOM), kind) for kind in ("kv", "state")}
        frames = {"kv": self.frames(8), "state": self.frames(8)}
        self.offloader = Offloader(frames, self.index, self.payloads(), Progress(), ttl=60)
        self.landed = threading.Event()
        counter = SimpleNamespace(complete=lambda *_: self.landed.set())
        self.loader = Loader(
            self.staged, self.index, counter, self.payloads(), Progress(),
            num_layers=1, device=self.pages.device, deadline=2.0,
        )  # fmt: skip

    def frames(self, count):
        return Frames(self.layout, count, pin=False)

    def payloads(self):
        return Payloads(ObjectClient(self.url, timeout=5.0), self.names)

    def store(self):
        rows = torch.arange(len(HASHES))[:, None]
        parts = tuple(Rows(kind, HASHES, rows) for kind in ("kv", "state"))
        self.offloader.submit(Offload(parts, ()))
        assert self.offloader.settle(timeout=10)

    def load(self, hashes, rows):
        self.landed.clear()
        self.loader.submit(Load(0, {"request": (kv(hashes, rows),)}, {"request": None}, READY))

    def close(self):
        self.loader.close()
        self.offloader.close()


@pytest.fixture
def rank(store_server):
    made = _Rank(store_server.url)
    yield made
    made.close()


def test_a_load_waits_for_room_that_a_prefetch_takes(rank):
    rank.store()
    payloads = rank.payloads()
    prefetched = rank.staged["kv"].stage(HASHES[:ROOM], payloads)
    before = rank.pages[:2].clone()
    rank.pages[6:] = 0
    rank.load(HASHES[:1] + HASHES[4:5], [6, 7])
    assert not rank.landed.wait(0.3)
    rank.staged["kv"].release(prefetched)
    assert rank.landed.wait(10)
    assert rank.loader.take_failed(0) == {}
    assert torch.equal(rank.pages[6], before[0])
    assert torch.equal(rank.pages[7], rank.pages[4])
    payloads.close()


def test_a_load_for_which_no_room_is_made_fails_at_its_deadline(rank):
    rank.store()
    payloads = rank.payloads()
    rank.staged["kv"].stage(HASHES[:ROOM], payloads)
    rank.load(HASHES[4:5], [7])
    assert rank.landed.wait(10)
    assert "1 without room" in rank.loader.take_failed(0)["request"]
    payloads.close()


def test_a_state_without_room_can_be_restored_all_the_same(rank):
    rank.store()
    payloads = rank.payloads()
    held = rank.staged["state"].stage(HASHES[:ROOM], payloads)
    control = Control(
        LinkerConfig(url=rank.url, engine_id="e", boot_id="b"), None, None,
        rank=1, rank_count=2, described=None, staged=rank.staged, index=StoredIndex(),
        progress=Progress(), offloader=rank.offloader, loader=rank.loader,
        backlog=Backlog(1, 1), holds=Holds(8, 8), steps=Steps(Ranks(), dict), payloads=payloads,
    )  # fmt: skip
    found = control.prefetch({"hashes": HASHES[4:5], "session": None})
    assert (found["state"], found["pages"], found["reason"]) == (True, 1, None)
    rank.staged["state"].release(held)
    assert not control.prefetch({"hashes": ["9" * 64], "session": None})["state"]
    payloads.close()


def test_a_prefetch_keeps_no_room_from_loads(rank):
    rank.store()
    payloads, staged = rank.payloads(), rank.staged["kv"]
    found = staged.prefetch(HASHES, payloads)
    assert (list(found.frames), found.unstaged) == (HASHES[:ROOM], HASHES[ROOM:])
    assert (staged.has(HASHES[:ROOM]), staged.pinned) == ([True] * ROOM, 0)
    assert staged.stage(HASHES[ROOM:], payloads).unstaged == []
    payloads.close()


class _Gone:
    """A store that does not answer."""

    def write(self, *_, **__):
        raise StoreUnavailable("gone")

    def close(self):
        pass


def test_what_could_not_be_written_is_remembered_within_a_bound(rank):
    frames = {"kv": rank.frames(8)}
    offloader = Offloader(frames, StoredIndex(), _Gone(), Progress(), ttl=60, remembered=3)
    for row, one in enumerate(HASHES[:5]):
        offloader.submit(Offload((kv([one], [row]),), ()))
    assert offloader.settle(timeout=10)
    assert [offloader.failed("kv", [one]) for one in HASHES[:5]] == [0, 0, 1, 1, 1]
    assert offloader.failures == 5
    offloader.close()


class _WithoutStates(Payloads):
    """A store that takes pages; states only if they are `welcome`."""

    welcome = False

    def write(self, items, *, ttl):
        if not self.welcome and any(ref.kind == "state" for ref, _ in items):
            raise StoreUnavailable("no states")
        return super().write(items, ttl=ttl)


def test_what_an_offload_wrote_before_it_failed_counts_as_written(rank):
    payloads = _WithoutStates(ObjectClient(rank.url, timeout=5.0), rank.names)
    frames = {"kv": rank.frames(8), "state": rank.frames(8)}
    offloader = Offloader(frames, StoredIndex(), payloads, Progress(), ttl=60)
    state = Rows("state", HASHES[1:2], torch.tensor([[1]]))
    offloader.submit(Offload((kv(HASHES[:2], [0, 1]), state), ()))
    assert offloader.settle(timeout=10)
    assert [offloader.failed(kind, HASHES) for kind in ("kv", "state")] == [0, 1]
    payloads.welcome = True
    offloader.try_at_once()
    offloader.submit(Offload((state,), ()))  # the pages are known to be there
    assert offloader.settle(timeout=10)
    assert [offloader.failed(kind, HASHES) for kind in ("kv", "state")] == [0, 0]
    assert [offloader.pop_result() for _ in range(2)] == [False, True]
    offloader.close()


def test_what_has_expired_is_told_of_until_it_is_stored_again_or_the_device_is_emptied():
    index = StoredIndex()
    index.forget("kv", HASHES)  # nobody knew of them
    assert not index.has_forgotten
    index.add("kv", HASHES)
    index.forget("kv", HASHES[:2])
    assert index.has_forgotten
    index.add("kv", HASHES[:1])
    assert index.has_forgotten
    index.add("kv", HASHES[1:2])
    assert not index.has_forgotten
    index.forget("kv", HASHES[:1])
    index.clear()
    assert not index.has_forgotten
