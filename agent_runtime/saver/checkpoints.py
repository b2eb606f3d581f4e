"""LangGraph's checkpointer on plain Redis or Valkey."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agent_runtime.errors import BadRequest
from agent_runtime.saver.blocking import BlockingSaver
from agent_runtime.saver.keys import Place, ThreadKeys
from agent_runtime.saver.memo import Memo
from agent_runtime.saver.reading import Row
from agent_runtime.saver.retention import needed
from agent_runtime.saver.sealing import CLEAR, Sealing
from agent_runtime.saver.thread import Thread
from agent_runtime.saver.values import Stored
from state_store.connection import Control
from state_store.durations import milliseconds
from state_store.errors import InvalidArgument

logger = logging.getLogger(__name__)

_TRIM_EVERY = 16  # puts between two looks at what is over the number to keep


class TorporSaver(BlockingSaver):
    """Checkpoints of any number of threads.

    Every method raises StoreUnavailable when the store does not answer.
    """

    def __init__(
        self,
        control: Control,
        *,
        prefix: str = "torpor:graph",
        ttl: float | None = None,
        keep: int | None = None,
        types: Collection[type] | None = None,
        sealing: Sealing = CLEAR,
    ) -> None:
        """ttl:  seconds that a thread lives after its last write; for ever if None
        keep: newest checkpoints of each namespace of a thread that stay, in steps of some; all if
              None. What their delta channels need stays too.
        types: classes of the graph's own that checkpoints may be made of, besides messages and
              what Python has. Others in a checkpoint are not made then: who can write to the
              store could have any class made. If None, all are, as LangGraph's savers do, and
              LangGraph warns.
        sealing: of a tenant's values, see `connect`

        Raises InvalidArgument for a ttl or a number with which nothing would be kept.
        """
        super().__init__(serde=_serializer(types))
        if keep is not None and keep < 1:
            raise InvalidArgument(f"a saver that keeps {keep} checkpoints saves nothing.")
        self._control = control
        self._prefix = prefix
        self._lives = 0 if ttl is None else milliseconds(ttl)
        self._keep = keep
        self._sealing = sealing
        self._stored = Stored()
        self._memo = Memo()

    # ---- checkpoints --------------------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        thread = self._thread_of(config)
        return await thread.tuple_at(_namespace(config), get_checkpoint_id(config))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        thread = self._thread_of(config)
        return await thread.delta_history(_namespace(config), get_checkpoint_id(config), channels)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Newest first within each namespace of each thread."""
        left = limit
        async for thread, places in self._listed(config, before):
            async for found in thread.newest_first(places, metadata=filter):
                if left is not None:
                    if left <= 0:
                        return
                    left -= 1
                yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread = self._thread_of(config)
        place = Place(_namespace(config), checkpoint["id"])
        whole = get_checkpoint_metadata(config, metadata)
        run_id = whole.get("run_id")
        values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
        valued = {ch: versions[ch] for ch in values if ch in versions}
        await self._list_in_runs(thread, [run_id] if run_id else [])
        await thread.put(
            place,
            Row(checkpoint, whole, config["configurable"].get("checkpoint_id"), frozenset(valued)),
            {ch: (version, values[ch]) for ch, version in new_versions.items() if ch in values},
            {ch: (v, values[ch]) for ch, v in valued.items() if ch not in new_versions},
            run_id,
            enlist=lambda: self._list_thread(thread),
        )
        if self._keep is not None:
            await self._trim(thread, place.namespace, self._keep)
        return {
            "configurable": {
                "thread_id": thread.keys.thread_id,
                "checkpoint_ns": place.namespace,
                "checkpoint_id": place.id,
            }
        }

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        thread = self._thread_of(config)
        place = Place(_namespace(config), config["configurable"]["checkpoint_id"])
        if not await thread.put_writes(place, writes, task_id, task_path):
            await self._list_thread(thread)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Versions of two branches differ, although both follow the same one: a value is stored
        under its version."""
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:010}.{secrets.token_urlsafe(8)}"

    # ---- threads ------------------------------------------------------------

    async def adelete_thread(self, thread_id: str) -> None:
        await self._thread(thread_id).delete()
        async with self._control.guard() as client:
            await client.srem(self._threads_key, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Checkpoints that others' delta channels are rebuilt from stay, and a warning says so."""
        for run_id in run_ids:
            async with self._control.guard() as client:
                listed = await client.smembers(self._run_key(run_id))
            for raw in listed:
                thread = self._thread(raw.decode())
                made = {place for place, run in (await thread.runs()).items() if run == run_id}
                kept = set(await thread.places()) - made
                held = await self._drop(thread, made, kept)
                if held:
                    logger.warning(
                        "%d checkpoints of run %s in thread %s stay: later ones are rebuilt from "
                        "them.", held, run_id, thread.keys.thread_id,
                    )  # fmt: skip
            async with self._control.guard() as client:
                await client.delete(self._run_key(run_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """The copy's checkpoints name the same sessions and snapshots as the source's."""
        source, target = self._thread(source_thread_id), self._thread(target_thread_id)
        if not await source.places():
            return
        await self._list_thread(target)
        await self._list_in_runs(target, set((await source.runs()).values()))
        await source.copy_to(target)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        if strategy not in ("keep_latest", "delete"):
            raise BadRequest(
                f"{strategy!r} is not a strategy; nothing was pruned. Use keep_latest or delete."
            )
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
                continue
            thread = self._thread(thread_id)
            for namespace in await thread.namespaces():
                await self._keep_newest(thread, namespace, 1)

    # ---- helpers ------------------------------------------------------------

    @property
    def _threads_key(self) -> str:
        return f"{self._prefix}:threads"

    def _run_key(self, run_id: str) -> str:
        return f"{self._prefix}:run:{run_id}"

    def _thread(self, thread_id: str) -> Thread:
        keys = ThreadKeys(self._prefix, thread_id)
        return Thread(
            self._control, keys, self.serde, self._memo, self._sealing, self._lives, self._stored
        )

    def _thread_of(self, config: RunnableConfig) -> Thread:
        return self._thread(str(config["configurable"]["thread_id"]))

    async def _list_thread(self, thread: Thread) -> None:
        async with self._control.guard() as client:
            await client.sadd(self._threads_key, thread.keys.thread_id)

    async def _list_in_runs(self, thread: Thread, run_ids: Iterable[str]) -> None:
        async with self._control.guard() as client:
            for run_id in run_ids:
                await client.sadd(self._run_key(run_id), thread.keys.thread_id)
                if self._lives:
                    await client.pexpire(self._run_key(run_id), self._lives)

    async def _listed(
        self, config: RunnableConfig | None, before: RunnableConfig | None
    ) -> AsyncIterator[tuple[Thread, list[Place]]]:
        newest = get_checkpoint_id(before) if before else None
        only = get_checkpoint_id(config) if config else None
        for thread in [self._thread_of(config)] if config else await self._threads():
            namespaces = await thread.namespaces()
            if config and config["configurable"].get("checkpoint_ns") is not None:
                namespaces = [n for n in namespaces if n == _namespace(config)]
            for namespace in namespaces:
                places = await thread.places(namespace, before=newest)
                yield thread, [place for place in places if not only or place.id == only]

    async def _threads(self) -> list[Thread]:
        """Those that are there; the others have expired and are taken off the list."""
        async with self._control.guard() as client:
            ids = [raw.decode() for raw in sorted(await client.smembers(self._threads_key))]
        found = [thread for thread in map(self._thread, ids) if await thread.places(most=1)]
        gone = set(ids) - {thread.keys.thread_id for thread in found}
        async with self._control.guard() as client:
            for thread_id in gone:
                keys = self._thread(thread_id).keys
                if not await client.exists(keys.rows, keys.written):
                    await client.srem(self._threads_key, thread_id)
        return found

    async def _trim(self, thread: Thread, namespace: str, keep: int) -> None:
        if len(await thread.places(namespace, most=keep + _TRIM_EVERY)) == keep + _TRIM_EVERY:
            await self._keep_newest(thread, namespace, keep)

    async def _keep_newest(self, thread: Thread, namespace: str, keep: int) -> None:
        places = await thread.places(namespace)
        others = {place for place in await thread.places() if place.namespace != namespace}
        await self._drop(thread, set(places[keep:]), {*places[:keep], *others})

    async def _drop(self, thread: Thread, unwanted: set[Place], kept: set[Place]) -> int:
        """How many stay because what is kept needs them."""
        namespaces = {place.namespace for place in unwanted}
        kin = [place for place in unwanted | kept if place.namespace in namespaces]
        rows = await thread.rows(kin)
        stored = await thread.value_fields()
        held = unwanted & needed([place for place in kin if place in kept], rows, stored)
        await thread.drop(unwanted - held)
        await thread.sweep()
        return len(held)


def _serializer(types: Collection[type] | None) -> SerializerProtocol:
    if types is None:
        return JsonPlusSerializer()
    return JsonPlusSerializer(allowed_msgpack_modules=list(types))


def _namespace(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))
