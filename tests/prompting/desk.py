"""Sessions that are prompted and committed as turns do it, and answered by whoever asks.

There is a store and no engine: what a model would say is given, and states are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from agent_runtime.feed.posting import Feed
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import Histories
from agent_runtime.scheduling.residency import Residency
from agent_runtime.sessions.forks import fork_at
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.generation import Generation
from agent_runtime.turns.outage import Standing
from agent_runtime.turns.placing import Placement
from agent_runtime.turns.prompting import Asked, Prompting, with_defaults
from agent_runtime.turns.records import TurnRecord
from agent_runtime.turns.stateless import Stateless
from agent_runtime.turns.turns import Turns
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest, TurnResult
from engine.demo_model import dialogues
from engine.pool import EnginePool
from engine.records import EngineRecord
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint
from state_store.objects import ObjectClient
from state_store.records import Lease, Session
from state_store.store import StateStore
from tools.define import ToolSpec

from .storing import Storing

PAGE = 8  # tokens
SYSTEM = "You are Torpor."
TOOLS = [ToolSpec(**tool["function"]) for tool in dialogues.TOOLS]
_FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="bfloat16", conv_dtype="bfloat16",
    ssm_dtype="float32", page_size=PAGE, kv_payload_bytes=2, state_payload_bytes=4,
    kv_segments=(Segment("bfloat16", 2),), state_segments=(Segment("float32", 4),), tp_size=1,
    draft="none", bigram=False, engine="e",
)  # fmt: skip
_RECORD = EngineRecord(
    engine_id="e", boot_id="b", url="http://127.0.0.1:1", fingerprint=_FINGERPRINT, ranks=1,
    page_size=PAGE, kv_object_bytes=1, state_object_bytes=1, context_length=0, prefill_chunk=PAGE,
    running_slots=1, state_slots=1, kv_slots=1, staging_bytes=1, greedy_only=False,
)  # fmt: skip


class Checkpoint:
    """oracle: its own tokenizer and template, as transformers applies them"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chat = ChatFormat(folder)
        self.oracle = AutoTokenizer.from_pretrained(folder)


class Desk:
    def __init__(
        self, store: StateStore, checkpoint: Checkpoint, url: str, objects: ObjectClient
    ) -> None:
        self.store = store
        self.chat = checkpoint.chat
        self.oracle = checkpoint.oracle
        self.engine = Storing(_RECORD, store, objects)
        self._objects = objects
        self.settings = RuntimeSettings(redis_url=url, model_dir=checkpoint.folder)
        self.turns = Turns(
            store,
            EnginePool(store),
            self.chat,
            Residency(),
            self.settings,
            Stateless(store, None, only=False),
            Feed(store),
        )
        self.prompting = self.turns.prompting

    async def go_elsewhere(self, **changed: object) -> None:
        """To an engine with another state format."""
        fingerprint = Fingerprint.model_validate(_FINGERPRINT.model_dump() | changed)
        record = _RECORD.model_copy(update={"fingerprint": fingerprint, "boot_id": "other"})
        await self.store.remember_fingerprint(fingerprint)
        self.engine = Storing(record, self.store, self._objects)

    async def create(self, *, history: str = "template", **meta: object) -> Session:
        return await self.store.create_session(
            tenant="default",
            fingerprint=_FINGERPRINT,
            meta={
                "system": SYSTEM,
                "tools": [tool.model_dump(mode="json") for tool in TOOLS],
                "sampling": {},
                "history": history,
                **meta,
            },
        )

    async def ask(self, session_id: str, *said: Message, **options: object) -> Asked:
        """What a turn would be prompted with; by who remembers and by who has to look."""
        before, request = await self._standing(session_id, said, options)
        asked = await self.prompting.ask(self.chat, before, request)
        again = await Prompting(self.store).ask(self.chat, before, request)
        assert prompt_of(asked) == prompt_of(again)
        assert asked.before.rewriting == again.before.rewriting
        return asked

    async def asked(self, session_id: str, text: str) -> Asked:
        """The same by who remembers."""
        said = Message(role="user", content=text)
        before, request = await self._standing(session_id, [said], {})
        return await self.prompting.ask(self.chat, before, request)

    async def answer(
        self, asked: Asked, answer: str, *, ended: bool = True, key: str | None = None
    ) -> TurnResult:
        """Commit the turn."""
        async with self.turns.writing(asked.before.session.id) as (_, lease):
            return await self.completed(asked, answer, lease, ended=ended, key=key)

    async def completed(
        self,
        asked: Asked,
        answer: str,
        lease: Lease,
        *,
        ended: bool = True,
        key: str | None = None,
    ) -> TurnResult:
        """By who holds the lease."""
        ids = [*self.chat.encode(answer), *([self.chat.eos_id] if ended else [])]
        placement = Placement(self.engine, "it is the only one")
        generation = Generation(placement, ids=ids, finish_reason="stop" if ended else "length")
        turn = TurnRecord(
            id="turn", request=asked.request, since=0, owner="desk",
            head=asked.before.session.head, key=key,
        )  # fmt: skip
        return await self.turns.completing.complete(
            self.chat, asked, lease, generation, asked.request, turn
        )

    async def say(self, session_id: str, text: str, answer: str, **options: object) -> Asked:
        """One turn, from end to end."""
        asked = await self.ask(session_id, Message(role="user", content=text), **options)
        await self.answer(asked, answer)
        return asked

    async def fork_at(self, session_id: str, tokens: int) -> Session:
        session = await self.store.session(session_id)
        fork_id = self.store.new_session_id(beside=session_id)
        return await fork_at(self.store, self.turns, session, tokens, labels={}, fork_id=fork_id)

    async def rewind(self, session_id: str, snapshot_id: str | None) -> None:
        async with self.turns.writing(session_id) as (_, lease):
            await self.store.rewind(session_id, snapshot_id, lease=lease)

    async def _standing(
        self, session_id: str, said: Sequence[Message], options: dict[str, Any]
    ) -> tuple[Standing, TurnRequest]:
        session = await self.store.session(session_id)
        tenant = await self.store.tenant("default")
        history = await Histories(self.store).of(
            session.head, self.engine.record.fingerprint, salt=tenant.salt
        )
        request = with_defaults(
            TurnRequest(messages=list(said), **options),
            session,
            answer_tokens=self.settings.answer_tokens,
        )
        return Standing(session, tenant.salt, self.engine, history), request

    def text(self, asked: Asked) -> str:
        return self.chat.decode(prompt_of(asked))

    def shown(self, messages: list[dict[str, object]], **options: object) -> str:
        """What transformers shows with the checkpoint's template."""
        return self.oracle.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, *messages],
            tools=[{"type": "function", "function": tool.model_dump()} for tool in TOOLS],
            tokenize=False,
            add_generation_prompt=True,
            **options,
        )


def prompt_of(asked: Asked) -> list[int]:
    """All ids that an engine is sent."""
    return [*asked.before.history.tokens, *asked.delta]


def thinks(text: str) -> bool:
    """Whether what follows a prompt is thought first."""
    return text.rstrip().endswith("<think>")
