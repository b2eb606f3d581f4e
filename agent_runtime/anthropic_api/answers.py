"""From a turn's result and events to Anthropic's message and events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from agent_runtime.frameworks import typed_arguments, untold
from agent_runtime.openai_api.messages import Ids, ours
from agent_runtime.wire.events import Progress, Reasoning, Text, TurnEvent
from agent_runtime.wire.turns import TurnResult
from tools.define import ToolSpec

Block = dict[str, Any]
Event = dict[str, Any]
_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


class Answer:
    """One answer, as it is told. thinking: whether what the model thinks is."""

    def __init__(self, ids: Ids, *, model: str, tools: Sequence[ToolSpec], thinking: bool) -> None:
        self._ids = ids
        self._model = model
        self._tools = tools
        self._show_thinking = thinking

    def message(self, result: TurnResult) -> dict[str, Any]:
        """The whole of it."""
        content = []
        if result.reasoning:
            content.append(_thinking(result.reasoning if self._show_thinking else ""))
        if result.text:
            content.append(_text(result.text))
        content += self._uses(result)
        return {
            **self._head(),
            "content": content,
            **_ending(result),
            "usage": {**usage_of(result), "service_tier": "standard"},
            "torpor": ours(result),
        }

    async def events(self, turn: AsyncGenerator[TurnEvent]) -> AsyncGenerator[Event]:
        """The same in pieces, from the first event of the turn on. Calls come last, each whole."""
        # How much was read is known at the end, and told there.
        usage = {"input_tokens": 0, "output_tokens": 0, "service_tier": "standard"}
        start = {**self._head(), "content": [], "stop_reason": None, "stop_sequence": None}
        blocks = _Blocks()
        has_begun = False
        # Closed even if the client goes away, so that the lease is given back at once.
        async with contextlib.aclosing(turn):
            async for event in turn:
                if not has_begun:
                    has_begun = True
                    yield {"type": "message_start", "message": {**start, "usage": usage}}
                    yield {"type": "ping"}
                for piece in self._pieces(blocks, event):
                    yield piece

    def _pieces(self, blocks: _Blocks, event: TurnEvent) -> list[Event]:
        match event:
            case Progress():
                return [{"type": "ping"}]
            case Reasoning():
                return blocks.add("thinking", event.text if self._show_thinking else "")
            case Text():
                return blocks.add("text", event.text)
            case TurnResult():
                pieces = [*blocks.add("text", untold(blocks.text, event.text)), *blocks.end()]
                for use in self._uses(event):
                    pieces += blocks.use(use)
                return [*pieces, *self._end(event)]
        return []  # a call is told with the result, which has it for certain

    def _end(self, result: TurnResult) -> list[Event]:
        delta = {
            "type": "message_delta",
            "delta": _ending(result),
            "usage": usage_of(result),
            "torpor": ours(result),
        }
        return [delta, {"type": "message_stop"}]

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._ids.of("msg_"),
            "type": "message",
            "role": "assistant",
            "model": self._model,
        }

    def _uses(self, result: TurnResult) -> list[Block]:
        return [
            {
                "type": "tool_use",
                "id": self._ids.of("toolu_", place),
                "name": call.name,
                "input": typed_arguments(call, self._tools),
            }
            for place, call in enumerate(result.tool_calls)
        ]


class _Blocks:
    """The blocks of a stream: one at a time is open. text: what was told of it"""

    def __init__(self) -> None:
        self.text = ""
        self._count = 0
        self._open: str | None = None

    def add(self, kind: str, text: str) -> list[Event]:
        """kind: `text` or `thinking`"""
        if kind == "text" and not text:
            return []
        events = []
        if self._open != kind:
            events = [*self.end(), self._start(_text("") if kind == "text" else _thinking(""))]
            self._open = kind
        if kind == "text":
            self.text += text
        if text:
            events.append(self._delta({"type": f"{kind}_delta", kind: text}))
        return events

    def use(self, block: Block) -> list[Event]:
        """A tool's use, from its beginning to its end."""
        written = json.dumps(block["input"], ensure_ascii=False)
        start = self._start({**block, "input": {}})
        return [
            start,
            self._delta({"type": "input_json_delta", "partial_json": written}),
            self._stop(),
        ]

    def end(self) -> list[Event]:
        """Close the open block, if one is."""
        if self._open is None:
            return []
        signed = self._open == "thinking"
        self._open = None
        signature = [self._delta({"type": "signature_delta", "signature": ""})] if signed else []
        return [*signature, self._stop()]

    def _start(self, block: Block) -> Event:
        return {"type": "content_block_start", "index": self._count, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._count, "delta": delta}

    def _stop(self) -> Event:
        self._count += 1
        return {"type": "content_block_stop", "index": self._count - 1}


def usage_of(result: TurnResult) -> dict[str, Any]:
    """All of a prompt that is stored is written to the cache, whether it was marked or not."""
    prompt, read = result.usage.prompt_tokens, result.usage.reused_tokens
    written = max(0, min(result.boundary, prompt) - read)
    thought = result.usage.reasoning_tokens
    return {
        "input_tokens": prompt - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": result.usage.completion_tokens,
        "output_tokens_details": None if thought is None else {"thinking_tokens": thought},
    }


def _ending(result: TurnResult) -> dict[str, Any]:
    reason = "tool_use" if result.tool_calls else "end_turn"
    if result.stopped_by is not None:
        reason = "stop_sequence"
    reason = _REASONS.get(result.finish_reason, reason)
    return {"stop_reason": reason, "stop_sequence": result.stopped_by}


def _text(text: str) -> Block:
    return {"type": "text", "text": text, "citations": None}


def _thinking(thinking: str) -> Block:
    return {"type": "thinking", "thinking": thinking, "signature": ""}
