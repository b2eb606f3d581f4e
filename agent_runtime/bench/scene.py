"""What benches of sessions run on: store, engine and runtime, and sessions of any length."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np

from agent_runtime.bench.peers.gguf_file import write_gguf
from agent_runtime.bench.peers.llama import LlamaProcess
from agent_runtime.bench.synthetic import write_session
from agent_runtime.demo.stage import Stage
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.sdk import Torpor
from agent_runtime.settings import RuntimeSettings
from engine.demo_model import dialogues
from engine.pool import EnginePool
from engine.profiles import Profile
from engine.records import EngineRecord
from state_store.store import StateStore

ROOM = 4096  # tokens of context for what is said after a session's text
_LINE = (
    "Mile {}: the harbour is closed, a warranty is not given, and the ship waits for the tide.\n"
)
_TENANT: str = RuntimeSettings.model_fields["tenant"].default


class Scene:
    """Everything runs. chat: the model's tokenizer and template"""

    def __init__(self, stage: Stage, torpor: Torpor, store: StateStore) -> None:
        self.stage = stage
        self.torpor = torpor
        self.store = store
        self.chat = ChatFormat(stage.model)

    async def engine(self) -> EngineRecord:
        """What the engine says of itself."""
        pool = EnginePool(self.store)
        record = (await pool.pick()).record
        await pool.close()
        return record

    async def told(self, tokens: int, *, answer: int) -> str:
        """A session that has read a text of about so many tokens, and answered with at most
        `answer`."""
        session = await self.torpor.create()
        line = len(self.chat.encode(_LINE.format(10_000)))
        text = "".join(_LINE.format(mile) for mile in range(max(1, tokens // line)))
        await self.torpor.turn(session.id, dialogues.read(text).user, max_tokens=answer)
        return session.id

    async def written(self, tokens: int) -> str:
        """A session of exactly so many tokens whose state was made up and is in the store."""
        record = await self.engine()
        text = np.array(self.chat.encode(_LINE.format(0)), dtype=np.uint32)
        ids = array("I", np.resize(text, tokens).tobytes())
        ids[-1] = self.chat.eos_id
        session, _ = await write_session(
            self.store, self.stage.store.url, record, ids, tenant=_TENANT
        )
        return session.id

    async def ids(self, session_id: str) -> list[int]:
        """Of the session's whole history."""
        head = (await self.torpor.get(session_id)).head
        return [] if head is None else (await self.store.tokens(head)).tolist()

    @contextlib.contextmanager
    def llama(self, context: int) -> Iterator[LlamaProcess]:
        """llama.cpp with the same weights and room for `context` tokens, on one thread and with KV
        in float32, as the engine is and has."""
        gguf = self.stage.files / "model.gguf"
        write_gguf(self.stage.model, gguf)
        process = LlamaProcess(
            gguf, self.chat.tokenizer.get_vocab_size(), context=context, flash=True
        )
        try:
            yield process
        finally:
            process.close()


@contextlib.asynccontextmanager
async def scene(
    profile: Profile, model: Path | None, data: Path, *, tokens: int
) -> AsyncIterator[Scene]:
    """Start a store, an engine and a runtime under `data`, which is emptied first.

    tokens: of the longest session, before what is said to it
    """
    context = min(profile.longest_context, tokens + ROOM)
    stage = Stage(data, model, profile=profile.at_context(context))
    stage.start(lambda _: None)
    try:
        async with (
            Torpor(stage.runtime.url, timeout=3600) as torpor,
            await StateStore.connect(stage.store.url, timeout=60) as store,
        ):
            yield Scene(stage, torpor, store)
    finally:
        stage.stop()
