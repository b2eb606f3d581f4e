"""The linker's conversation with runtimes: registration, and commands about page chains: prefetch,
renew, settle, persist, where, hold, let go, drop.

Commands arrive through the store (`state_store/registry.py`) and run on threads of their own, those
that may wait for long apart: what touches the device waits for the scheduler's next step
(`steps.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.linker import device
from engine.linker.backlog import Backlog
from engine.linker.config import HEARTBEAT_TTL, LinkerConfig, prefetching, settling, watched
from engine.linker.device import Holds
from engine.linker.forms import Doors
from engine.linker.index import StoredIndex
from engine.linker.load import Loader
from engine.linker.offload import Offloader
from engine.linker.progress import Progress
from engine.linker.staging import Staged, StagedObjects
from engine.linker.steps import Steps, Work
from state_store.errors import StoreUnavailable
from state_store.fingerprint import Fingerprint
from state_store.forms import FormName
from state_store.layout import KINDS, Kind, ObjectRef, parts_of
from state_store.payloads import Payloads
from state_store.registry import CommandListener, Heartbeat
from state_store.tenant_forms import REFUSALS

if TYPE_CHECKING:
    from engine.linker.pools import DevicePools  # imports SGLang

logger = logging.getLogger(__name__)

STEP_TIMEOUT = 10.0  # seconds; a step of a long prefill chunk takes a while
_AT_ONCE = 64  # commands that wait, for the scheduler's next step or for offloads
SETTLE_MARGIN = 1.0  # seconds before its caller gives up that a settle tells what is stored


class Control:
    """Answers runtimes on behalf of one rank."""

    def __init__(
        self,
        config: LinkerConfig,
        server_args: Any,
        fingerprint: Fingerprint,
        *,
        rank: int,
        rank_count: int,
        described: DevicePools,
        staged: Mapping[Kind, StagedObjects],
        index: StoredIndex,
        offloader: Offloader,
        loader: Loader,
        backlog: Backlog,
        holds: Holds,
        steps: Steps,
        progress: Progress,
        doors: Doors,
        reading: Doors,
        master_keys: Sequence[str] = (),
    ) -> None:
        """reading: for prefetches; master_keys: ids of those that this engine has"""
        self._staged = staged
        self._index = index
        self._offloader = offloader
        self._loader = loader
        self._backlog = backlog
        self._holds = holds
        self._steps = steps
        self._progress = progress
        self._ttl = config.uncommitted_ttl
        self._doors = doors
        self._reading = reading
        self._listener = CommandListener(
            config.url,
            config.boot_id,
            rank,
            {
                "renew": self.renew,
                "where": self.where,
                "hold": self.hold,
                "let_go": self.let_go,
                "drop": self.drop,
                "status": self.status,
                "announce": self.announce,
            },
            prefix=config.prefix,
            at_once=_AT_ONCE,
        )
        # It waits for what the store sends, and for the archive.
        self._prefetching = CommandListener(
            config.url,
            prefetching(config.boot_id),
            rank,
            {"prefetch": self.prefetch},
            prefix=config.prefix,
        )
        # These wait for the store to take what others have offloaded.
        self._settling = CommandListener(
            config.url,
            settling(config.boot_id),
            rank,
            {"settle": self.settle, "persist": self.persist},
            prefix=config.prefix,
            at_once=_AT_ONCE,
        )
        # Asked while other commands take seconds: they have a thread of their own.
        self._watched = CommandListener(
            config.url,
            watched(config.boot_id),
            rank,
            {"progress": self.progress, "status": self.status, "drain": self.drain},
            prefix=config.prefix,
        )
        self._heartbeat = None
        if rank == 0:
            self._record = {
                "engine_id": config.engine_id,
                "boot_id": config.boot_id,
                "url": config.advertised or server_args.url(),
                "fingerprint": fingerprint.model_dump(mode="json"),
                "ranks": rank_count,
                "page_size": described.page_size,
                "kv_object_bytes": staged["kv"].frames.frame_bytes,
                "state_object_bytes": staged["state"].frames.frame_bytes,
                "context_length": int(server_args.context_length or 0),
                "running_slots": described.running_slots,
                "state_slots": described.state_slots,
                "kv_slots": described.kv_slots,
                "staging_bytes": config.kv_staging_bytes,
                "master_keys": list(master_keys),
                "prefill_chunk": int(server_args.chunked_prefill_size),
                # `speculative/eagle_utils.py:_verify_uses_greedy`
                "greedy_only": bool(server_args.speculative_algorithm)
                and server_args.device == "cpu",
                # `sampling/sampling_batch_info.py:from_schedule_batch`
                "seeded": bool(server_args.enable_deterministic_inference),
            }
            self._heartbeat = Heartbeat(
                config.url, config.engine_id, self._record, ttl=HEARTBEAT_TTL, prefix=config.prefix
            )

    def start(self) -> None:
        """Raises EngineIdTaken; StoreUnavailable."""
        self._listener.start()
        self._prefetching.start()
        self._settling.start()
        self._watched.start()
        if self._heartbeat is not None:
            self._heartbeat.start()

    def stop(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._listener.stop()
        self._prefetching.stop()
        self._settling.stop()
        self._watched.stop()
        self._doors.close()
        self._reading.close()

    def prefetch(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Stage a snapshot's page chain and the state at its end.

        The state first: without it no page is of use. What finds no room in the staging memory is
        only checked to exist; its load then reads from the store.
        """
        hashes: list[str] = payload["hashes"]
        sizes = {kind: self._staged[kind].frames.frame_bytes for kind in KINDS}
        total = sizes["state"] + len(hashes) * sizes["kv"]
        came = self._progress.load_begins(payload["session"], total)
        try:
            payloads = self._reading.of(_form(payload))
            state = self._stage("state", hashes[-1:], payloads, came)
            kv = self._stage("kv", hashes, payloads, came)
        except BaseException:
            self._progress.load_ends(payload["session"])
            raise
        self._look_for("state", state.unstaged, payloads)
        self._look_for("kv", kv.unstaged, payloads)
        restorable = all(self._index.has("state", hashes[-1:]))
        known = self._index.has("kv", hashes)
        pages = known.index(False) if False in known else len(known)
        return {
            "pages": pages,
            "state": restorable,
            "bytes_read": state.bytes_read + kv.bytes_read,
            "reason": _why_not(state, "state", int(not restorable))
            or _why_not(kv, "KV pages", len(hashes) - pages),
        }

    def announce(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Know of a snapshot without reading it: if its session comes here, the load reads it."""
        asked: dict[Kind, list[str]] = {"state": payload["hashes"][-1:], "kv": payload["hashes"]}
        payloads = self._doors.of(_form(payload))
        for kind, hashes in asked.items():
            self._look_for(kind, hashes, payloads)
        return {}

    def renew(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Keep alive what a turn is about to build on, and forget what has expired meanwhile."""
        forgotten = 0
        payloads = self._doors.of(_form(payload))
        for kind in KINDS:
            hashes: list[str] = payload["hashes"]
            known = [h for h, has in zip(hashes, self._index.has(kind, hashes), strict=True) if has]
            alive = self._all_parts(kind, known, partial(payloads.touch, ttl=self._ttl))
            gone = [h for h, is_alive in zip(known, alive, strict=True) if not is_alive]
            self._index.forget(kind, gone)
            forgotten += len(gone)
        return {"forgotten": forgotten}

    def settle(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Wait for offloads queued so far, then say which of `hashes` are in the store."""
        settled = self._offloader.settle(max(0.0, payload["timeout"] - SETTLE_MARGIN))
        hashes: list[str] = payload["hashes"]
        failed = sum(self._offloader.failed(kind, hashes) for kind in KINDS)
        return {
            "settled": settled,
            "failed": failed,
            "refused": self._why_refused(payload) if failed else None,
            "turned_away": sum(self._backlog.missed(kind, hashes) for kind in KINDS),
            "kv": self._index.has("kv", hashes),
            "state": self._index.has("state", hashes),
        }

    def persist(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Like `settle`, once what the device holds of `hashes` was offered to the store again."""
        self._offloader.try_at_once()
        self._at_next_step(payload, partial(device.offer, hashes=payload["hashes"]))
        return self.settle(payload)

    def where(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Where the chain is, from page `since` on: what a load would find in each place, slowest
        last."""
        chain: list[str] = payload["hashes"]  # it is found on the device from its root
        found: device.OnDevice = self._at_next_step(payload, partial(device.where, hashes=chain))
        pages = range(payload["since"], len(chain))
        staged, payloads = self._staged, self._doors.of(_form(payload))
        asked = chain[payload["since"] :]
        on_device = {
            "kv": [page < found.pages for page in pages],
            "state": [page + 1 in found.states for page in pages],
        }
        return {
            "device": on_device,
            "staged": {kind: staged[kind].has(asked) for kind in KINDS},
            "stored": {kind: self._all_parts(kind, asked, payloads.exists) for kind in KINDS},
            "held_for": self._holds.left(payload["name"]),
        }

    def hold(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Keep what the device holds of `hashes` for `seconds`, under `name`."""
        what = {key: payload[key] for key in ("name", "hashes", "seconds")}
        pages, reason = self._at_next_step(payload, partial(self._holds.hold, **what))
        return {"pages": pages, "reason": reason or None}

    def let_go(self, payload: dict[str, Any]) -> dict[str, Any]:
        """End the hold of that `name`."""
        work = partial(self._holds.let_go, name=payload["name"])
        return {"was_held": self._at_next_step(payload, work)}

    def drop(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Free the device of what only this chain uses."""
        work = partial(device.drop, hashes=payload["hashes"])
        return {"pages": self._at_next_step(payload, work)}

    def drain(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Say in the engine's record, at once, that it takes no more turns, or that it does."""
        if self._heartbeat is not None:
            self._heartbeat.publish(self._record | {"draining": payload["draining"]})
        return {}

    def status(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Counters since this process started, and what waits now."""
        waiting, waiting_bytes = self._backlog.waiting
        most, most_bytes = self._backlog.most
        return {
            "objects_known": len(self._index),
            "objects_written": self._offloader.objects_written,
            "bytes_written": self._offloader.bytes_written,
            "offload_failures": self._offloader.failures,
            "offload_seconds": self._offloader.seconds,
            "objects_loaded": self._loader.objects_loaded,
            "bytes_loaded": self._loader.bytes_loaded,
            "load_seconds": self._loader.seconds,
            "load_failures": self._loader.failures,
            "loads_late": self._loader.late,
            "loads_from_host_only": self._loader.distrusts_store,
            "objects_pinned": sum(staged.pinned for staged in self._staged.values()),
            "offloads_turned_away": self._backlog.turned_away,
            "offloads_waiting": waiting,
            "offload_bytes_waiting": waiting_bytes,
            "offloads_waiting_most": most,
            "offload_bytes_waiting_most": most_bytes,
            "prefilled_tokens": self._progress.prefilled_tokens,
            "commands_running": sum(
                one.is_running for one in (self._listener, self._prefetching, self._settling)
            ),
        }

    def progress(self, payload: dict[str, Any]) -> dict[str, Any]:
        """A `RankWork` of one session."""
        return self._progress.of(payload["session"])

    def _at_next_step(self, payload: dict[str, Any], work: Work) -> Any:
        return self._steps.ask(payload["step"], work, timeout=STEP_TIMEOUT)

    def _all_parts(
        self,
        kind: Kind,
        hashes: list[str],
        ask: Callable[[Sequence[ObjectRef]], list[bool]],
    ) -> list[bool]:
        """Whether `ask` says yes to every part of each page or state."""
        parts = range(parts_of(self._staged[kind].frames.layout.payload_bytes))
        answers = iter(ask([ObjectRef(kind, h, part) for h in hashes for part in parts]))
        return [sum(next(answers) for _ in parts) == len(parts) for _ in hashes]

    def _why_refused(self, payload: dict[str, Any]) -> str | None:
        """Why nothing is stored in the form that is asked about; None if that is possible."""
        try:
            self._doors.of(_form(payload))
        except REFUSALS as error:
            return str(error)
        except StoreUnavailable:  # then that is why
            pass
        return None

    def _look_for(self, kind: Kind, hashes: list[str], payloads: Payloads) -> None:
        exists = self._all_parts(kind, hashes, payloads.exists)
        self._index.saw(kind, [h for h, found in zip(hashes, exists, strict=True) if found])
        self._index.forget(kind, [h for h, found in zip(hashes, exists, strict=True) if not found])

    def _stage(
        self, kind: Kind, hashes: list[str], payloads: Payloads, came: Callable[[int], None]
    ) -> Staged:
        objects = self._staged[kind]
        staged = objects.prefetch(hashes, payloads, came)
        self._index.add(kind, staged.frames)
        self._index.forget(kind, staged.missing)
        self._index.condemn(kind, staged.corrupt)
        return staged


def _form(payload: dict[str, Any]) -> FormName | None:
    """In which the objects of a chain are stored."""
    named = payload.get("form")
    return None if named is None else FormName(*named)


def _why_not(staged: Staged, what: str, short: int) -> str | None:
    if staged.corrupt:
        return f"{len(staged.corrupt)} corrupt {what} refused"
    if staged.missing or short:
        return f"{len(staged.missing) or short} {what} not in the store"
    return None
