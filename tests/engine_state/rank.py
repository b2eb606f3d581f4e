"""The threads of one rank's linker over a real store; its device is plain memory."""

from __future__ import annotations

import secrets
import threading
from types import SimpleNamespace

import torch

from engine.linker.backlog import Backlog
from engine.linker.config import LinkerConfig
from engine.linker.control import Control
from engine.linker.device import Holds
from engine.linker.forms import Doors
from engine.linker.frames import Frames
from engine.linker.index import StoredIndex
from engine.linker.load import Load, Loader
from engine.linker.offload import Offload, Offloader, Rows
from engine.linker.progress import Progress
from engine.linker.ranks import Ranks
from engine.linker.segments import ObjectLayout, Segment
from engine.linker.staging import StagedObjects
from engine.linker.steps import Steps
from state_store.encodings import Segment as Stretch
from state_store.fingerprint import Fingerprint
from state_store.layout import ObjectNames
from state_store.objects import ObjectClient
from state_store.payloads import Payloads
from state_store.tenant_forms import TenantForms
from state_store.vault import Vault

ROOM = 4  # frames of each kind
HASHES = [f"{number:064x}" for number in range(1, 9)]
WIDTH = 516  # bytes of a page and of a state
FORMAT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="float32", conv_dtype="float32",
    ssm_dtype="float32", page_size=1, kv_payload_bytes=WIDTH, state_payload_bytes=WIDTH,
    kv_segments=(Stretch("float32", WIDTH),), state_segments=(Stretch("float32", WIDTH),),
    tp_size=1, draft="none", bigram=False, engine="e",
)  # fmt: skip


def kv(hashes, rows):
    return Rows("kv", hashes, torch.tensor(rows)[:, None])


class Rank:
    """The parts of one rank's linker. pages: uint8[8, WIDTH], the device; `HASHES` name the pages
    and states of the store, in the order of its rows."""

    def __init__(self, url, *, prefix=None, vault=None):
        self.url = url
        self.pages = torch.arange(8 * WIDTH).to(torch.uint8).reshape(8, WIDTH)
        self.layout = ObjectLayout((Segment(0, self.pages, 0, "uint8"),))
        self.names = ObjectNames(prefix or f"t{secrets.token_hex(4)}", FORMAT.id, 0)
        self.forms = TenantForms(
            ObjectClient(url, timeout=5.0), self.names.prefix, FORMAT, vault or Vault()
        )
        self.index = StoredIndex()
        self.staged = {kind: StagedObjects(self.frames(ROOM), kind) for kind in ("kv", "state")}
        frames = {"kv": self.frames(8), "state": self.frames(8)}
        self.offloader = Offloader(frames, self.index, self.doors(), Progress(), ttl=60)
        self.landed = threading.Event()
        counter = SimpleNamespace(complete=lambda *_: self.landed.set())
        self.loader = Loader(
            self.staged, self.index, counter, self.doors(), Progress(),
            num_layers=1, device=self.pages.device, deadline=2.0,
        )  # fmt: skip

    def frames(self, count):
        return Frames(self.layout, count, pin=False)

    def payloads(self):
        return Payloads(ObjectClient(self.url, timeout=5.0), self.names)

    def doors(self, payloads=None):
        return Doors(payloads or self.payloads(), self.forms)

    def control(self, **parts):
        """parts: others than the rank's own"""
        given = {
            "rank": 1, "rank_count": 2, "described": None, "staged": self.staged,
            "index": self.index, "progress": Progress(), "offloader": self.offloader,
            "loader": self.loader, "backlog": Backlog(1, 1), "holds": Holds(8, 8),
            "steps": Steps(Ranks(), dict), "doors": self.doors(), "reading": self.doors(),
        }  # fmt: skip
        config = LinkerConfig(url=self.url, engine_id="e", boot_id="b")
        return Control(config, None, None, **given | parts)

    def store(self, salt=None):
        """Whether all pages and states are stored, as far as the offloader knows."""
        rows = torch.arange(len(HASHES))[:, None]
        parts = tuple(Rows(kind, HASHES, rows) for kind in ("kv", "state"))
        self.offloader.submit(Offload(parts, (), salt=salt))
        assert self.offloader.settle(timeout=10)
        return self.offloader.pop_result()

    def load(self, hashes, rows, salt=None, free=()):
        self.landed.clear()
        requests = {"request": (kv(hashes, rows),)}
        self.loader.submit(Load(0, requests, {"request": None}, {"request": salt}, free))

    def close(self):
        self.loader.close()
        self.offloader.close()
        self.forms.close()
