"""SGLang's unified-cache linker over the state store: one per scheduler process (rank).

Contract: `sglang/srt/mem_cache/unified_cache/unified_cache_linker.py`. The radix tree asks
`lookup` for the prefix lengths that can be restored, queues `load`s into private device slots
and `offload`s every node it inserts. Payloads travel on threads of their own; the runtime speaks
to others (`engine/linker/control.py`) to prefetch a snapshot before it submits a request and to
settle offloads before it commits one.

Loaded by `--unified-cache-external-linker-backend dynamic`.
"""

from __future__ import annotations

import logging
import os
from array import array
from dataclasses import replace
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
from sglang.srt.mem_cache.unified_cache.unified_cache_linker import (
    LayerWiseLoadCounter,
    UnifiedCacheLinker,
)
from sglang.srt.mem_cache.utils import get_hash_str

from engine.boundaries import break_even
from engine.linker import offers, patches
from engine.linker.backlog import Backlog
from engine.linker.config import RECOMPUTE, LinkerConfig
from engine.linker.control import Control
from engine.linker.device import Holds
from engine.linker.failures import FailedLoads
from engine.linker.fingerprint import fingerprint_of
from engine.linker.forms import Doors
from engine.linker.frames import Frames
from engine.linker.index import StoredIndex
from engine.linker.layouts import require_alike, require_restorable
from engine.linker.load import Load, Loader
from engine.linker.offload import Offload, Offloader, Rows
from engine.linker.options import require_supported
from engine.linker.pools import describe_pools
from engine.linker.progress import Progress
from engine.linker.ranks import Ranks
from engine.linker.restored import Asker, RestoredStates
from engine.linker.staging import StagedObjects
from engine.linker.steps import Steps
from engine.linker.thinning import Thinning
from engine.patch import require
from engine.tags import session_of
from state_store.archive import ArchiveReader, open_archive
from state_store.layout import Kind, ObjectNames
from state_store.objects import ObjectClient
from state_store.payloads import Payloads
from state_store.tenant_forms import TenantForms
from state_store.vault import Vault

logger = logging.getLogger(__name__)


class TorporLinker(UnifiedCacheLinker):  # type: ignore[misc]
    """KV pages, states (Mamba, sliding windows) and draft KV between the device pools and Redis.

    Raises UnsupportedModel for pools it cannot store and for a folder without weight files,
    UnsupportedLayout for ranks that are not arranged for it, UnsupportedOption (see `options`),
    PatchError when a hook is not in place, StoreUnavailable when the store does not answer at
    start.
    """

    def __init__(
        self,
        server_args: Any,
        params: Any,
        *,
        components: Any,
        extra_config: dict[str, Any],
        forward_stream: Any,
    ) -> None:
        config = LinkerConfig.told(extra_config, os.environ)
        # SGLang only logs a hook that fails; without these, states would be missed silently.
        require(patches.ALL)
        require_restorable(server_args)
        require_supported(server_args)
        self.forward_stream = forward_stream
        self._described = describe_pools(params)
        self._group = self._described.group
        self.pools = self._group.entry_map
        self._page_size = self._described.page_size
        self._ranks = Ranks.of(params)
        fingerprint = fingerprint_of(server_args, params, self._described, self._ranks.count)
        require_alike(self._ranks.each(fingerprint.model_dump(mode="json")))
        # SGLang compiles and loads what it names pages with at the first lookup: not in a prompt.
        get_hash_str(array("q", [0]), page_size=1)
        names = ObjectNames(config.prefix, fingerprint.id, self._ranks.index)
        vault = Vault() if config.master_key is None else Vault.load(config.master_key)
        self._forms = TenantForms(
            ObjectClient(config.url, timeout=config.timeout), config.prefix, fingerprint, vault
        )

        self._index = StoredIndex()
        self.progress = Progress()
        self.askers: dict[str, Asker] = {}
        """Of requests whose load is being queued: see `restored.load_back`."""
        self.offered_salt: str | None = None
        """Of the node that is being offered: see `salts.py`."""
        self.restored = RestoredStates()
        self.failed_loads = FailedLoads(self._ranks)
        described = self._described
        self.room = described.room
        pages = described.kv_slots // self._page_size
        self._holds = Holds(pages, described.state_slots, self.room)
        self.steps = Steps(self._ranks, self._holds.due)
        self.parts = described.parts
        has_mamba = self.parts.has_mamba
        self.thinning = Thinning(
            self.parts,
            interval=break_even(
                page_size=self._page_size,
                page_bytes=described.kv.payload_bytes,
                state_bytes=described.state.payload_bytes,
            ),
            chunk=int(server_args.chunked_prefill_size),
            grid=max(self._page_size, int(server_args.mamba_track_interval) * has_mamba),
        )
        self._backlog = Backlog(config.offload_queue_count, config.offload_queue_bytes, self.room)
        offers.watch(self._index, self._ranks, self.thinning, self.parts, self._backlog.turn_away)
        layouts = {"kv": self._described.kv, "state": self._described.state}
        device = self._described.kv.segments[0].rows.device
        pin = device.type == "cuda"

        def frames(kind: Kind, budget: int, least: int) -> Frames:
            layout = layouts[kind]
            return Frames(layout, max(least, budget // layout.payload_bytes), pin=pin)

        def doors() -> Doors:
            """Each thread has connections of its own, opened now: a wrong URL must stop the engine
            here, and the first session that comes does not wait for them."""
            client = ObjectClient(config.url, timeout=config.timeout)
            reader = None
            if config.archive is not None:
                reader = ArchiveReader(open_archive(config.archive, timeout=config.timeout), names)
            opened = Doors(Payloads(client, names, archive=reader), self._forms)
            opened.ping()
            return opened

        self._staged: dict[Kind, StagedObjects] = {
            "kv": StagedObjects(frames("kv", config.kv_staging_bytes, 8), "kv"),
            "state": StagedObjects(frames("state", config.state_staging_bytes, 2), "state"),
        }
        self.layer_done_counter = LayerWiseLoadCounter(self._group.num_layers)
        if has_mamba:
            params.req_to_token_pool.register_layer_transfer_counter(self.layer_done_counter)
        self._loader = Loader(
            self._staged,
            self._index,
            self.layer_done_counter,
            doors(),
            self.progress,
            num_layers=self._group.num_layers,
            device=device,
            deadline=config.load_deadline,
        )
        self._offloader = Offloader(
            {"kv": frames("kv", 1 << 22, 8), "state": frames("state", 0, 1)},
            self._index,
            doors(),
            self.progress,
            ttl=config.uncommitted_ttl,
        )
        self._queued_loads: dict[str, tuple[list[list[PoolTransfer]], Asker]] = {}
        self._failed_loads: dict[str, str] = {}
        self._control = Control(
            config,
            server_args,
            fingerprint,
            rank=self._ranks.index,
            rank_count=self._ranks.count,
            described=self._described,
            staged=self._staged,
            index=self._index,
            offloader=self._offloader,
            loader=self._loader,
            backlog=self._backlog,
            holds=self._holds,
            steps=self.steps,
            progress=self.progress,
            doors=doors(),
            reading=doors(),
            master_keys=vault.master_key_ids,
        )
        self._control.start()
        logger.info(
            "torpor linker: rank %d/%d, fingerprint %s, page %d tokens = %d bytes, state %d bytes",
            self._ranks.index,
            self._ranks.count,
            fingerprint.id,
            self._page_size,
            self._described.kv.payload_bytes,
            self._described.state.payload_bytes,
        )

    # ---- lookup -------------------------------------------------------------

    def lookup(self, rid: str, transfers: list[PoolTransfer]) -> list[int]:
        """Prefix lengths, in pages of the uncached tail, at which KV and state can be restored.

        KV must be known for every page up to the boundary; a state exists only where a node
        ended, so the list is sparse. Answers from memory only; while the store does not answer,
        what is not in host memory counts as not restorable.
        """
        if rid.startswith(RECOMPUTE):
            return []
        hashes = next(t.keys for t in transfers if t.name == PoolName.KV)
        kv = self._restorable("kv", hashes)
        whole = kv.index(False) if False in kv else len(kv)
        state = self._restorable("state", hashes[:whole])
        return [pages + 1 for pages, known in enumerate(state) if known]

    # ---- store -> device ----------------------------------------------------

    def load(self, rid: str, transfers: list[PoolTransfer]) -> bool:
        resolved = self._group.resolve_transfers(
            transfers, allow_partial=True, allow_missing_kv=True
        )
        if not resolved:
            return False
        queued = [resolved]
        if (slot := self.restored.slot(rid)) is not None:
            (state,) = [t for t in transfers if t.name == PoolName.MAMBA]
            again = [replace(state, device_indices=slot)]
            queued.append(
                self._group.resolve_transfers(again, allow_partial=True, allow_missing_kv=True)
            )
        self._queued_loads[rid] = queued, self.askers[rid]
        return True

    def cancel_queued_load(self, rid: str) -> bool:
        return self._queued_loads.pop(rid, None) is not None

    def start_layer_wise_loading(self) -> int:
        if not self._queued_loads:
            return -1
        queued, self._queued_loads = self._queued_loads, {}
        counter_index = self.layer_done_counter.update_producer()
        # As SGLang's `cache_controller.py:start_loading`: with overlap scheduling the forward that
        # runs may still write what was reclaimed, so its stream is waited for, too.
        free = tuple(self.record_offload_ready())
        requests = {
            rid: tuple(rows for transfers in each for rows in self._rows(transfers))
            for rid, (each, _) in queued.items()
        }
        sessions = {rid: _session(asker.tag) for rid, (_, asker) in queued.items()}
        salts = {rid: asker.salt for rid, (_, asker) in queued.items()}
        self._loader.submit(Load(int(counter_index), requests, sessions, salts, free))
        return int(counter_index)

    def finish_layer_wise_loading(self, counter_index: int) -> bool:
        """Wait for the batch's layers. Which requests miss theirs is told by `take_failed_loads`:
        see `failures.py`."""
        landed = bool(self.layer_done_counter.finish(counter_index))
        self._failed_loads = self._loader.take_failed(counter_index)
        return landed

    def take_failed_loads(self) -> dict[str, str]:
        """Requests of the batch just finished that miss their state on this rank, and why."""
        failed, self._failed_loads = self._failed_loads, {}
        return failed

    # ---- device -> store ----------------------------------------------------

    def offload(self, transfers: list[PoolTransfer], session_id: str | None = None) -> bool:
        resolved = self._group.resolve_transfers(transfers, allow_partial=True)
        if not resolved:
            return False
        rows = [part for one in self._rows(resolved) if (part := self._thinned(one)).hashes]
        locks_state = any(transfer.name == PoolName.MAMBA for transfer in transfers)
        if not self._backlog.admit(rows, self._size(rows), locks_state=locks_state):
            return False  # the tree offers it again when it next passes
        # A resume inserts its restored tail as new nodes: what is stored already is not copied.
        new = tuple(part for p in rows if (part := self._unknown(p)).hashes)
        ready = tuple(self.record_offload_ready())
        self._offloader.submit(Offload(new, ready, _session(session_id), self.offered_salt))
        return True

    def num_completed_offloads(self) -> int:
        return self._offloader.num_results()

    def pop_completed_offload(self) -> bool:
        self._backlog.pop()
        return self._offloader.pop_result()

    # ---- lifecycle ----------------------------------------------------------

    def reset(self) -> None:
        """On a cache flush, be as a new engine: forget queued work, host copies and what is known
        of the store. What is stored stays stored."""
        self._queued_loads.clear()
        self._loader.drain()
        self._offloader.drain()
        self._backlog.clear()
        self._holds.clear()
        for staged in self._staged.values():
            staged.discard_all()
        self._index.clear()
        self.thinning.clear()
        self.restored.clear()
        self.layer_done_counter.reset()

    def close(self) -> None:
        self._control.stop()
        self.reset()
        self._loader.close()
        self._offloader.close()
        self._forms.close()

    # ---- helpers ------------------------------------------------------------

    def _restorable(self, kind: Kind, hashes: list[str]) -> list[bool]:
        if self._loader.distrusts_store:
            return self._staged[kind].has(hashes)
        return self._index.has(kind, hashes)

    def _size(self, rows: list[Rows]) -> int:
        """Bytes of device memory."""
        return sum(
            len(part.hashes) * self._staged[part.kind].frames.layout.payload_bytes for part in rows
        )

    def _rows(self, transfers: list[PoolTransfer]) -> list[Rows]:
        """Physical transfers, one of each pool, as rows per kind. Draft KV shares the KV pool's
        rows and object."""
        by_name = {transfer.name: transfer for transfer in transfers}
        rows = []
        if kv := by_name.get(PoolName.KV):
            rows.append(Rows("kv", list(kv.keys), self._device_rows(kv)[:, None]))
        parts = [t for name in (PoolName.MAMBA, PoolName.SWA) if (t := by_name.get(name))]
        if parts:
            places = torch.full((1, self._described.state.places), -1)
            for part in parts:
                found = self._device_rows(part)
                last = 1 if part.name == PoolName.MAMBA else places.shape[1]
                places[0, last - len(found) : last] = found
            rows.append(Rows("state", [parts[0].keys[-1]], places))
        return rows

    def _device_rows(self, transfer: PoolTransfer) -> torch.Tensor:
        """int64[pages or states]"""
        entry = self.pools[transfer.name]
        slots = torch.tensor(entry.prepare_locations(transfer.host_indices))
        return slots // int(entry.page_size)

    def _thinned(self, part: Rows) -> Rows:
        if part.kind != "state":
            return part
        return _some(part, [not self.thinning.is_left_out(h) for h in part.hashes])

    def _unknown(self, part: Rows) -> Rows:
        return _some(part, [not known for known in self._index.has(part.kind, part.hashes)])


def _some(part: Rows, chosen: list[bool]) -> Rows:
    keep = [i for i, is_chosen in enumerate(chosen) if is_chosen]
    return Rows(part.kind, [part.hashes[i] for i in keep], part.rows[keep])


def _session(tag: str | None) -> str | None:
    return None if tag is None else session_of(tag)
