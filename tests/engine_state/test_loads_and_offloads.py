"""The linker's threads over a real store, with pages of a device that is plain memory."""

import contextlib
import threading
from types import SimpleNamespace

import msgpack
import pytest
import redis
import torch
from engine_cpu.test_patches import python

from engine.linker import offers
from engine.linker.config import prefetching
from engine.linker.index import StoredIndex
from engine.linker.offload import Offload, Offloader, Rows
from engine.linker.progress import Progress
from engine.linker.ranks import Ranks
from state_store.errors import ArchiveRefused, ArchiveUnavailable, StoreUnavailable
from state_store.objects import ObjectClient
from state_store.payloads import Payloads
from state_store.protocol import PROTOCOL
from state_store.registry import commands_key

from .rank import HASHES, ROOM, Rank, kv


@pytest.fixture
def rank(store_server):
    made = Rank(store_server.url)
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
    control = rank.control(index=StoredIndex(), reading=rank.doors(payloads))
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


@pytest.mark.parametrize("pages", [1, ROOM + 1])  # layer by layer, and in windows
def test_nothing_is_written_to_rows_before_both_streams_have_let_go_of_them(rank, pages):
    rank.store()
    freed = [threading.Event() for _ in range(2)]
    rows = list(range(8 - pages, 8))
    rank.pages[rows] = 0
    rank.load(HASHES[:pages], rows, free=[SimpleNamespace(synchronize=one.wait) for one in freed])
    for one in freed:
        assert not rank.landed.wait(0.3)
        assert not rank.pages[rows].any()
        assert rank.staged["kv"].has(HASHES[:1]) == [True]  # what can be done is done meanwhile
        one.set()
    assert rank.landed.wait(10)
    assert rank.loader.take_failed(0) == {}
    assert rank.pages[rows[-1]].any()


def test_a_load_waits_for_the_forward_that_may_still_write_what_was_freed():
    """With streams of a device by name: this needs no device, and a CPU has none."""
    done = python(
        """
        from types import SimpleNamespace
        from sglang.srt.mem_cache.unified_cache import unified_cache_linker
        from engine.linker.linker import TorporLinker

        class Event:
            def record(self, stream="the scheduler's"):
                self.stream = stream

        unified_cache_linker.device_module = SimpleNamespace(Event=Event)
        linker, loads = object.__new__(TorporLinker), []
        linker.forward_stream = "the forward's"
        linker.layer_done_counter = SimpleNamespace(update_producer=lambda: 0)
        linker._queued_loads = {"request": ([], SimpleNamespace(tag=None, salt=None))}
        linker._loader = SimpleNamespace(submit=loads.append)
        assert linker.start_layer_wise_loading() == 0
        print(sorted(event.stream for event in loads[0].free))
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == """["the forward's", "the scheduler's"]"""


class _WithoutArchive(Payloads):
    """What has moved to the archive cannot be read there."""

    error = ArchiveUnavailable("the bucket does not answer")

    def _read_archive(self, *_):
        raise self.error


@pytest.mark.parametrize("error", [ArchiveUnavailable("it is silent"), ArchiveRefused("no")])
def test_an_archive_that_fails_fails_the_load_that_needs_it_and_nobody_elses(rank, error):
    rank.store()
    client = ObjectClient(rank.url, timeout=5.0)
    payloads = _WithoutArchive(client, rank.names, archive=SimpleNamespace(close=lambda: None))
    payloads.error = error
    rank.loader._doors.close()
    rank.loader._doors = rank.doors(payloads)
    rank.load(["9" * 64], [7])
    assert rank.landed.wait(10)
    assert rank.loader.take_failed(0) == {"request": str(error)}
    assert not rank.loader.distrusts_store


class _Slow(Payloads):
    """A read of it takes until it is `answered`, as one from an archive may."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.asked, self.answered = threading.Event(), threading.Event()

    def read(self, items):
        self.asked.set()
        assert self.answered.wait(30)
        return super().read(items)


def test_a_prefetch_that_waits_for_the_archive_holds_up_no_other_command(rank):
    rank.store()
    slow = _Slow(ObjectClient(rank.url, timeout=5.0), rank.names)
    control = rank.control(reading=rank.doors(slow))
    control.start()
    with contextlib.closing(redis.Redis.from_url(rank.url)) as client:

        def send(address, name, **payload):
            call = {"call": name, "name": name, "reply": f"reply of {name}", "payload": payload}
            call["protocol"] = PROTOCOL
            client.rpush(commands_key("torpor", address, 1), msgpack.packb(call))

        def result(name):
            answer = client.blpop([f"reply of {name}"], timeout=10)
            return None if answer is None else msgpack.unpackb(answer[1])["result"]

        send(prefetching("b"), "prefetch", hashes=HASHES[:2], session=None)
        assert slow.asked.wait(10)
        send("b", "renew", hashes=HASHES[:2])
        assert result("renew") == {"forgotten": 0}
        assert client.llen("reply of prefetch") == 0
        slow.answered.set()
        assert result("prefetch")["pages"] == 2
    control.stop()


class _Gone:
    """A store that does not answer."""

    def write(self, *_, **__):
        raise StoreUnavailable("gone")

    def close(self):
        pass


def test_what_could_not_be_written_is_remembered_within_a_bound(rank):
    frames = {"kv": rank.frames(8)}
    doors = rank.doors(_Gone())
    offloader = Offloader(frames, StoredIndex(), doors, Progress(), ttl=60, remembered=3)
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
    offloader = Offloader(frames, StoredIndex(), rank.doors(payloads), Progress(), ttl=60)
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


def test_what_is_lost_is_counted_if_it_was_known():
    index = StoredIndex()
    index.forget("kv", HASHES)  # nobody knew of them
    assert index.losses == 0
    index.add("kv", HASHES)
    index.forget("kv", HASHES[:2])
    assert index.losses == 1
    index.condemn("kv", HASHES[1:3])
    assert index.losses == 2
    assert index.has("kv", HASHES[:4]) == [False, False, False, True]


class _Asked(StoredIndex):
    """Notes what is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def has(self, kind, hashes):
        self.asked += hashes
        return super().has(kind, hashes)


def test_after_a_loss_each_node_of_the_device_is_looked_at_once(monkeypatch):
    index = _Asked()
    thinning = SimpleNamespace(recalled=0, is_left_out=lambda _: False)
    parts = SimpleNamespace(are_at=lambda node: node.has_state)
    monkeypatch.setattr(offers, "_watched", [])
    offers.watch(index, Ranks(), thinning, parts, lambda states: None)

    def node(*hashes, has_state=False):
        index.add("kv", hashes)
        index.add("state", hashes[-1:] * has_state)
        return SimpleNamespace(
            hash_value=list(hashes), has_state=has_state, external_cache_stored=True
        )

    def expired(nodes):
        index.asked.clear()
        return offers.unmark_expired(nodes), list(index.asked)

    chain = [node(*HASHES[:3]), node(*HASHES[3:5], has_state=True)]
    assert expired(chain) == ([], [])
    index.add("kv", ["of nothing on the device"])
    index.forget("kv", ["of nothing on the device"])  # and never stored again
    assert expired(chain) == ([], [*HASHES[:5], HASHES[4]])
    for more in HASHES[5:7]:  # what is new, and not all of the context
        chain.append(node(more))
        assert expired(chain) == ([], [more])
    thinning.recalled += 1
    index._known.remove("state", HASHES[4:5])  # as one that was left out, and is wanted now
    assert expired(chain)[0] == [chain[1]]
    assert not chain[1].external_cache_stored
    index.condemn("kv", HASHES[:1])
    assert expired(chain)[0] == [chain[0], chain[1]]
