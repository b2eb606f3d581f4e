"""Answers of `/v1/chat/completions`: whole, and in chunks as they come."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from agent_runtime.frameworks import untold
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api.logprobs import logprobs_of
from agent_runtime.openai_api.messages import (
    Ids,
    arguments_of,
    finish_reason_of,
    ours,
)
from agent_runtime.wire.events import Progress, Reasoning, Text, TurnEvent
from agent_runtime.wire.turns import TurnResult
from tools.define import ToolSpec

DONE = "data: [DONE]\n\n"


class Answering:
    """The answers to one request."""

    def __init__(
        self,
        model: str,
        ids: Ids,
        tools: Sequence[ToolSpec],
        chat: ChatFormat | None,
        *,
        top_logprobs: int | None,
    ) -> None:
        """chat: None if there are no token ids; top_logprobs: None if none are asked for"""
        self._model = model
        self._ids = ids
        self._tools = tools
        self._chat = chat
        self._top_logprobs = top_logprobs

    def completion(self, results: Sequence[TurnResult]) -> dict[str, Any]:
        return {
            **self._envelope("chat.completion"),
            "choices": [
                {
                    "index": number,
                    "message": self._message(number, result),
                    **self._ended(result),
                }
                for number, result in enumerate(results)
            ],
            "usage": self._usage(results),
        }

    async def chunks(
        self, events: AsyncGenerator[tuple[int, TurnEvent]], *, include_usage: bool
    ) -> AsyncGenerator[str]:
        """Server-sent events, to the last. What takes long is told in comments, which clients skip.

        A call comes when its answer is committed, in one piece, and so do log-probabilities.
        """
        usage = {"usage": None} if include_usage else {}
        streams: dict[int, _Stream] = {}
        results: dict[int, TurnResult] = {}
        async with aclosing(events):
            async for number, event in events:
                if isinstance(event, Progress):
                    yield f": {event.phase} {event.done}/{event.total}\n\n"
                    continue
                choices: list[dict[str, Any]] = []
                stream = streams.setdefault(number, _Stream())
                deltas = stream.deltas(event)
                if isinstance(event, TurnResult):
                    results[number] = event
                    calls = self._calls(number, event)
                    deltas += [
                        delta
                        for place, call in enumerate(calls)
                        for delta in _call_deltas(place, call)
                    ]
                    choices = [{"index": number, "delta": {}, **self._ended(event)}]
                plain = [
                    {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
                    for delta in stream.with_role(deltas, ended=bool(choices))
                ]
                for choice in (*plain, *choices):
                    chunk = {**self._envelope("chat.completion.chunk"), "choices": [choice]}
                    yield _sent({**chunk, **usage})
        if include_usage:
            chunk = {**self._envelope("chat.completion.chunk"), "choices": []}
            yield _sent({**chunk, "usage": self._usage([results[n] for n in sorted(results)])})
        yield DONE

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._ids.of("chatcmpl-"),
            "object": kind,
            "created": int(time.time()),
            "model": self._model,
            "system_fingerprint": None,
        }

    def _message(self, number: int, result: TurnResult) -> dict[str, Any]:
        calls = self._calls(number, result)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": result.text or (None if calls else ""),
            "refusal": None,
        }
        if result.reasoning:
            message["reasoning_content"] = result.reasoning
        if calls:
            message["tool_calls"] = calls
        return message

    def _calls(self, number: int, result: TurnResult) -> list[dict[str, Any]]:
        return [
            {
                "id": self._ids.of("call_", number, place),
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_of(call, self._tools)},
            }
            for place, call in enumerate(result.tool_calls)
        ]

    def _ended(self, result: TurnResult) -> dict[str, Any]:
        logprobs = None
        if self._top_logprobs is not None and self._chat is not None:
            logprobs = logprobs_of(result, self._chat, top=self._top_logprobs)
        return {
            "logprobs": logprobs,
            "finish_reason": finish_reason_of(result),
            "torpor": ours(result),
        }

    def _usage(self, results: Sequence[TurnResult]) -> dict[str, Any]:
        """The prompt counts once: the other answers branch off where it ends."""
        first = results[0].usage
        generated = sum(result.usage.completion_tokens for result in results)
        thinking = [result.usage.reasoning_tokens for result in results]
        known = [tokens for tokens in thinking if tokens is not None]
        return {
            "prompt_tokens": first.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": first.prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": first.reused_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                # None where an endpoint without state does not say.
                "reasoning_tokens": sum(known) if len(known) == len(thinking) else None,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


class _Stream:
    """What of one answer has been told."""

    def __init__(self) -> None:
        self._text = ""
        self._reasoning = ""
        self._begun = False

    def deltas(self, event: TurnEvent) -> list[dict[str, Any]]:
        """Of text and reasoning. What was told cannot be taken back: if the whole answer is another
        (see `MessageParser.read`), its `problems` say why."""
        match event:
            case Reasoning(text=text):
                self._reasoning += text
                return [{"reasoning_content": text}]
            case Text(text=text):
                self._text += text
                return [{"content": text}]
            case TurnResult():
                rests = {
                    "reasoning_content": untold(self._reasoning, event.reasoning),
                    "content": untold(self._text, event.text),
                }
                return [{name: rest} for name, rest in rests.items() if rest]
        return []

    def with_role(self, deltas: list[dict[str, Any]], *, ended: bool) -> list[dict[str, Any]]:
        if self._begun or not (deltas or ended):
            return deltas
        self._begun = True
        calls = bool(deltas) and "tool_calls" in deltas[0]
        return [{"role": "assistant", "content": None if calls else "", "refusal": None}, *deltas]


def _call_deltas(place: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    """Its name, then its arguments."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    opening = {**call, "index": place, "function": {"name": name, "arguments": ""}}
    following = {"index": place, "function": {"arguments": arguments}}
    return [{"tool_calls": [opening]}, {"tool_calls": [following]}]


def _sent(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
