"""Turns for the agent loop that are shown while they come, and survive a service that goes away.

    ask under a key ── pieces ✕ ── wait ── ask again under the key ── the pieces that are new

A turn that was committed meanwhile is told and not run again; one that was not is run once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Any

from agent_runtime.chat import chats
from agent_runtime.chat.view import View
from agent_runtime.sdk import Torpor
from agent_runtime.sdk.errors import ApiError, ApiUnreachable, passes, pause_before
from agent_runtime.wire.events import Progress, Reasoning, Text, ToolCalled
from agent_runtime.wire.messages import Message
from agent_runtime.wire.sessions import SessionView
from agent_runtime.wire.turns import TurnResult

_LASTING = ("no_backend", "no_model")  # as long as the service is started as it is


class Asking:
    """What `graph.build_agent` needs of a client.

    session_id: where the last turn was taken, which is a fork if somebody else has moved the
                session in between
    """

    def __init__(self, torpor: Torpor, view: View, *, patience: float) -> None:
        """patience: seconds for which a service that is away or full is asked again"""
        self._torpor = torpor
        self._view = view
        self._patience = patience
        self.session_id = ""

    async def turn(
        self,
        session_id: str,
        messages: list[Message],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> TurnResult:
        """Raises what the last attempt raised; at once what another would not change."""
        self.session_id = session_id
        key = idempotency_key or uuid.uuid4().hex
        pieces = _Pieces(self._view)
        attempt, waited, told = 0, 0.0, ""
        while True:
            began = time.monotonic()
            try:
                return await self._attempt(session_id, messages, key, pieces, options)
            except (ApiUnreachable, ApiError) as error:
                attempt += 1
                waited = 0.0 if pieces.came else waited + time.monotonic() - began
                pause = pause_before(error, attempt)
                if not passes(error) or error.code in _LASTING or waited + pause > self._patience:
                    raise
                if error.code != told:
                    self._view.note(f"{error} Asking again until it is answered.")
                told = error.code
                await asyncio.sleep(pause)
                waited += pause

    async def fork(
        self,
        session_id: str,
        *,
        snapshot: str | None = None,
        tokens: int | None = None,
        idempotency_key: str | None = None,
    ) -> SessionView:
        view = await self._torpor.get(session_id)
        fork = await chats.forked(
            self._torpor, view, snapshot=snapshot, tokens=tokens, idempotency_key=idempotency_key
        )
        self._view.note(
            f"somebody else has gone on with {chats.name_of(view)} meanwhile; "
            f"this chat goes on from where it was as {chats.name_of(fork)}."
        )
        return fork

    async def delete(self, session_id: str) -> None:
        await self._torpor.delete(session_id)

    async def _attempt(
        self,
        session_id: str,
        messages: list[Message],
        key: str,
        pieces: _Pieces,
        options: dict[str, Any],
    ) -> TurnResult:
        pieces.begin()
        stream = self._torpor.stream(session_id, messages, idempotency_key=key, **options)
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                match event:
                    case TurnResult():
                        return event
                    case Progress():
                        self._view.progress(event)
                    case Reasoning() | Text() | ToolCalled():
                        pieces.come(event)
        raise ApiUnreachable("the answer broke off.")


class _Pieces:
    """Shows each piece of a turn once, however often it is told."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._shown: dict[type, str] = {}
        self._told: dict[type, str] = {}
        self.came = False

    def begin(self) -> None:
        """Another attempt."""
        self._told = {Reasoning: "", Text: "", ToolCalled: ""}
        self._shown = self._shown or dict(self._told)
        self.came = False

    def come(self, event: Reasoning | Text | ToolCalled) -> None:
        self.came = True
        kind = type(event)
        piece = event.model_dump_json() if isinstance(event, ToolCalled) else event.text
        told = self._told[kind] = self._told[kind] + piece
        shown = self._shown[kind]
        if not told.startswith(shown) and not shown.startswith(told):
            self._view.anew()
            self._shown = dict.fromkeys(self._shown, "") | {kind: told}
            self._show(event, told)
        elif new := told[len(shown) :]:
            self._shown[kind] = told
            self._show(event, new)

    def _show(self, event: Reasoning | Text | ToolCalled, new: str) -> None:
        match event:
            case Reasoning():
                self._view.reasoning(new)
            case Text():
                self._view.text(new)
            case ToolCalled():
                self._view.called(event)
