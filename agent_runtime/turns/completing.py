"""The end of a turn that was generated: committed, or kept until the store is back."""

from __future__ import annotations

import dataclasses

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import Histories, History
from agent_runtime.scheduling.residency import Residency
from agent_runtime.settings import RuntimeSettings
from agent_runtime.turns.answers import Answers
from agent_runtime.turns.committing import commit_turn
from agent_runtime.turns.generation import Generation
from agent_runtime.turns.keeping import Keeping
from agent_runtime.turns.outage import Outage
from agent_runtime.turns.prompting import Asked, Prompting
from agent_runtime.turns.records import TurnRecord
from agent_runtime.turns.results import result_of
from agent_runtime.wire.turns import TurnRequest, TurnResult
from state_store.errors import StoreUnavailable
from state_store.records import Lease
from state_store.store import StateStore


class Completing:
    """Ends turns, and tells whoever remembers the session's head of the new one."""

    def __init__(
        self,
        store: StateStore,
        settings: RuntimeSettings,
        histories: Histories,
        prompting: Prompting,
        answers: Answers,
        outage: Outage,
        keeping: Keeping,
        residency: Residency,
    ) -> None:
        self._store = store
        self._settings = settings
        self._histories = histories
        self._prompting = prompting
        self._answers = answers
        self._outage = outage
        self._keeping = keeping
        self._residency = residency

    async def complete(
        self,
        chat: ChatFormat,
        asked: Asked,
        lease: Lease,
        generation: Generation,
        request: TurnRequest,
        turn: TurnRecord,
    ) -> TurnResult:
        """The result, but for its timing. request: as the turn was run; that of `turn` is as it
        came.

        Raises what `commit_turn` does but StoreUnavailable: then the head is what it was.
        """
        before, session, record = asked.before, asked.before.session, asked.before.engine.record
        new_ids = [*asked.delta, *generation.ids]
        after = before.after(new_ids)
        result = result_of(chat, before, asked.delta, generation, request)
        answered = asked.answered(generation.ids)
        try:
            meta = await self._answers.prepare(session, turn, result, before.rewriting)
            commit, shortfall = await commit_turn(
                self._store,
                before.engine,
                session,
                lease,
                before.history,
                new_ids,
                after.history.hashes,
                prompt_tokens=result.usage.prompt_tokens,
                durability=request.durability,
                settle_timeout=self._settings.settle_timeout,
                boundary_interval=self._settings.boundary_interval,
                marks=generation.marks,
                meta=meta | answered.meta,
                files=request.workspace,
                rewriting=before.rewriting,
            )
        except StoreUnavailable as error:
            return self._keeping.keep(
                before, new_ids, result, turn.request, error, turn.key, answered.meta
            )
        snapshot = commit.snapshot
        format_id = record.fingerprint.id
        history = History(
            after.history.tokens, after.history.hashes, snapshot.boundary, format_id, format_id
        )
        self._histories.hold(snapshot.id, history)
        self._prompting.hold(snapshot.id, answered)
        session = dataclasses.replace(session, head=snapshot.id)
        self._outage.remember(
            dataclasses.replace(before, session=session, history=history, rewriting=None)
        )
        self._residency.placed(session.id, record.boot_id)
        written = record.ranks * (
            len(snapshot.page_chain) * record.kv_object_bytes
            + len(snapshot.boundaries(record.page_size)) * record.state_object_bytes
        )
        self._residency.wrote(session.id, written)
        return result.model_copy(
            update={
                "parent": snapshot.parent,
                "snapshot": snapshot.id,
                "boundary": snapshot.boundary,
                "durable": commit.durability,
                "not_durable_because": commit.shortfall or shortfall,
                "bytes_written": written,
                "caught_up": self._outage.caught_up.pop(session.id, 0),
                "problems": [*result.problems, *self._outage.lost_files.pop(session.id, [])],
            }
        )
