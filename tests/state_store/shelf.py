"""Histories whose objects are stored and pinned, and everything that may happen to them."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import redis
from writer import Trips

from state_store.archive import ArchiveReader, open_archive
from state_store.archive.archivist import Archivist
from state_store.archive.collect import check_archive, collect_condemned, collect_orphans
from state_store.archive.moved import Moved
from state_store.archive.policy import ArchivePolicy
from state_store.archive.sweep import SweepReport, sweep
from state_store.archive.targets import Target, targets_of
from state_store.codec import HEADER_BYTES, Frame, check, seal
from state_store.connection import Control, _script
from state_store.errors import CorruptObject, StoreError
from state_store.garbage import GRACE
from state_store.layout import (
    LineageKeys,
    ObjectNames,
    ObjectRef,
    TenantKeys,
    new_lineage,
    new_session_id,
)
from state_store.objects import ObjectClient
from state_store.records import Snapshot

RANKS = 2
KV_BYTES, STATE_BYTES = 96, 160
FINGERPRINT = "ab" * 16


class Shelf:
    """One store prefix with an archive of its own. `client` stands for the engines."""

    def __init__(self, url: str, folder: Path, *, archive_url: str | None = None) -> None:
        self.prefix = f"t{secrets.token_hex(4)}"
        self.url = url
        self.folder = folder / self.prefix
        self.archive = open_archive(archive_url or f"file://{self.folder}")
        self.client = ObjectClient(url, timeout=5.0)
        self.raw = redis.Redis.from_url(url)
        self.control = Control(url, timeout=5.0)
        self.archivist = self.another()[0]
        self._histories: dict[str, list[Snapshot]] = {}

    def another(self) -> tuple[Archivist, Control]:
        """A second process on the same store and archive."""
        control = Control(self.url, timeout=5.0)
        archivist = Archivist(
            control, self.prefix, ObjectClient(self.url, timeout=5.0), self.archive
        )
        return archivist, control

    async def close(self) -> None:
        self.archivist.close()
        self.archivist._client.close()
        await self.archivist._control.close()
        await self.control.close()
        self.client.close()
        self.raw.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what engines and runtimes do -----------------------------------------

    def snapshot(self, pages: int = 2, *, page_hashes: Sequence[str] | None = None) -> Snapshot:
        """A committed snapshot with pages of its own and a state."""
        hashes = page_hashes or [secrets.token_hex(32) for _ in range(pages)]
        lineage = new_lineage()
        snapshot = Snapshot(
            id=f"snp-{lineage}-{secrets.token_hex(16)}",
            parent=None,
            session_id=f"ses-{lineage}-{secrets.token_hex(8)}",
            total_tokens=4 * len(hashes),
            boundary=4 * len(hashes),
            boundary_hash=hashes[-1],
            page_hashes=b"".join(map(bytes.fromhex, hashes)),
            fingerprint_id=FINGERPRINT,
            ranks=RANKS,
            kv_bytes=KV_BYTES,
            state_bytes=STATE_BYTES,
            meta={},
            created_at=0.0,
        )
        for target in self.targets(snapshot):
            self.write(target)
            assert self.pin(target, "one")
        return snapshot

    def session(
        self, *history: Snapshot, used: float, tenant: str = "default", lineage: str | None = None
    ) -> str:
        """A session with this history, root first, that was last used so many seconds ago."""
        lineage = lineage or new_lineage()
        session_id = new_session_id(lineage)
        keys = LineageKeys(self.prefix, lineage)
        if history:
            self._histories[history[-1].id] = list(history)
        self.raw.hset(keys.session(session_id), "head", history[-1].id if history else "")
        self.raw.sadd(keys.sessions, session_id)
        now = self.raw.time()[0]
        self.raw.zadd(TenantKeys(self.prefix, tenant).used, {session_id: now - used})
        return session_id

    async def records(self, snapshot_id: str) -> list[Snapshot]:
        return self._histories[snapshot_id]

    async def sweep(self, **policy: float) -> SweepReport:
        return await sweep(self.control, self.prefix, self, self.archivist, ArchivePolicy(**policy))

    def listed(self, tenant: str = "default") -> set[str]:
        """Sessions that may have bytes in Redis."""
        used = TenantKeys(self.prefix, tenant).used
        return {raw.decode() for raw in self.raw.zrange(used, 0, -1)}

    def places(self, *history: Snapshot) -> set[str]:
        files = self.files()
        return {self.place(target, files) for target in self.targets(*history)}

    def targets(self, *history: Snapshot) -> list[Target]:
        return list(targets_of(self.prefix, history))

    def write(self, target: Target, *, variant: int = 0) -> None:
        """As an engine that finds the object nowhere: what is there stays."""
        self.client.put(
            [
                (names.key(target.ref), memoryview(value_of(names, target.ref, variant)))
                for names in target.names
            ],
            ttl=300,
        )

    def pin(self, target: Target, pin: str) -> bool:
        seed = target.names[0].seed_key(target.ref)
        return bool(self._script("pin", [target.pins, target.cold, seed, *target.objects], pin, 0))

    def unpin(self, target: Target, pin: str = "one") -> None:
        beside = [target.pins, target.cold, target.condemned, target.names[0].seed_key(target.ref)]
        self._script("unpin", [*beside, *target.objects], pin, GRACE, 0)

    def _script(self, name: str, keys: list[bytes], *arguments: object) -> object:
        """As a commit and as letting go run them."""
        text, _ = _script(name)
        return self.raw.eval(text, len(keys), *keys, *arguments)

    def load(self, target: Target) -> list[bytes | None]:
        """The payload of each rank as an engine would get it, None where it gets nothing."""
        return [self._load(names, target) for names in target.names]

    def _load(self, names: ObjectNames, target: Target) -> bytes | None:
        frame = Frame(
            memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(target.decoded_bytes))
        )
        reader = ArchiveReader(self.archive, names)
        try:
            for _ in range(2):
                size = self.client.get_into([(names.key(target.ref), frame.stored())])[0]
                if size is None and (cold := self.raw.get(target.cold)):
                    size = reader.read_into(target.ref, cold, frame.stored())
                if size is not None:
                    check(frame, size, names=names, ref=target.ref)
                    return bytes(frame.payload)
        except CorruptObject:
            return None
        finally:
            reader.close()
        return None

    # ---- what must hold ---------------------------------------------------------

    def files(self) -> list[str]:
        """Names of the archived objects of this store."""
        return sorted(
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        )

    def place(self, target: Target, files: Sequence[str] | None = None) -> str:
        """`stored`, `archived`, or what is wrong with the object."""
        files = self.files() if files is None else files
        present = [bool(self.raw.exists(key)) for key in target.objects]
        cold = self.raw.get(target.cold)
        if cold is not None:
            mine = [name for name in files if name.endswith(f".{cold.decode()}")]
            whole = len(mine) == RANKS
            return "archived" if whole and not any(present) else f"{present}, {mine}"
        lasting = [self.raw.ttl(key) == -1 for key in target.objects]
        return "stored" if all(present) and all(lasting) else f"{present}, lasting {lasting}"

    async def settle(self) -> None:
        """Everybody who might still be moving anything is dead: collect."""
        await collect_condemned(self.control, self.prefix, self.archive, older_than=0)
        await collect_orphans(self.control, self.prefix, self.archive, older_than=0)

    async def check(self, *held: Snapshot, released: Sequence[Snapshot] = ()) -> None:
        """All of it can be loaded; the archive holds what cold keys name and nothing else."""
        await self.settle()
        cold = set()
        targets = self.targets(*held)
        for target in targets:
            for names, loaded in zip(target.names, self.load(target), strict=True):
                assert loaded in [value_of(names, target.ref, v)[HEADER_BYTES:] for v in (0, 1)]
            if generation := self.raw.get(target.cold):
                cold.add(generation.decode())
            else:
                assert self.place(target) == "stored"
        assert {name.rpartition(".")[2] for name in self.files()} == cold
        assert len(self.files()) == RANKS * len(cold)
        for target in self.targets(*released):
            if target not in targets:
                assert not self.raw.exists(target.cold, target.pins)
                assert all(self.raw.ttl(key) != -1 for key in target.objects)
        assert self.raw.keys(f"{self.prefix}:condemned:*") == []
        report = await check_archive(self.control, self.prefix, self.archive)
        assert report.problems == []
        assert report.objects == len(cold)


class Steps:
    """Every round trip and file operation of one archivist, numbered from 1. See `Trips`."""

    def __init__(self, archivist: Archivist) -> None:
        self.trips = Trips(SimpleNamespace(_control=archivist._control))
        self._loop = asyncio.get_running_loop()
        archivist._client = _Counted(archivist._client, self, ("get_into", "put", "replace"))
        archivist.archive = _Counted(archivist.archive, self, ("put", "get_into", "delete"))
        archivist.files.archive = archivist.archive

    def step(self, operation: Callable[[], object]) -> object:
        """Called in the archivist's threads."""

        async def send() -> object:
            return await asyncio.to_thread(operation)

        return asyncio.run_coroutine_threadsafe(self.trips._trip(send), self._loop).result()


class _Counted:
    def __init__(self, real: object, steps: Steps, counted: tuple[str, ...]) -> None:
        self._real, self._steps, self._counted = real, steps, counted

    def __getattr__(self, name: str) -> object:
        found = getattr(self._real, name)
        if name not in self._counted:
            return found
        return lambda *args, **kwargs: self._steps.step(lambda: found(*args, **kwargs))


async def dies(steps: Steps, at: tuple[str, int], operation: Awaitable[Moved]) -> bool:
    """Run the operation with a crash; whether it ran through in spite of it."""
    steps.trips.count, steps.trips.crash_at = 0, at
    try:
        await operation
    except (StoreError, ConnectionError):
        return False
    return steps.trips.count < at[1]


def value_of(names: ObjectNames, ref: ObjectRef, variant: int = 0) -> bytes:
    """A sealed object whose payload follows from its name; two variants are both right."""
    size = KV_BYTES if ref.kind == "kv" else STATE_BYTES
    payload = (f"{ref.kind} {names.rank} {ref.tag}".encode() * 4)[:size]
    frame = Frame(
        memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(payload[:: 1 - 2 * variant]))
    )
    seal(frame, names=names, ref=ref)
    return b"".join(frame.stored())
