"""Async client of one OpenAI-compatible endpoint: `/chat/completions`, streamed.

The protocol as OpenAI documents it, with what vLLM, NIM, SGLang and llama.cpp's server add for
reasoning. What the endpoint says of tokens is taken as it is; nothing is estimated.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from engine.backends.settings import BackendSettings
from engine.backends.stream import Call, Chunk, Collected, Piece, chunk_of
from engine.client import EVERY_TURN, Sampling
from engine.errors import (
    BackendBusy,
    BackendMalformed,
    BackendUnauthorized,
    EngineRefused,
    EngineUnreachable,
)
from engine.lines import lines_of
from engine.retry_after import seconds_until
from engine.tracing import HOOKS

_SHOWN = 500  # characters of what the endpoint said


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    finish_reason: `stop`, `length`, `tool_calls` or `content_filter`
    cached_tokens: prompt tokens that the endpoint says it did not compute; 0 if it does not say
    model:         what the endpoint calls the model that answered
    reasoning_tokens: of the completion; None if there is reasoning and the endpoint does not say
    """

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    model: str
    reasoning_tokens: int | None


class Backend:
    """One endpoint and model.

    Raises EngineUnreachable, EngineRefused and its subclasses, or BackendMalformed; nothing else.
    """

    def __init__(self, settings: BackendSettings) -> None:
        """Raises BackendKeyMissing."""
        self.settings = settings
        self._key = settings.key()
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(settings.timeout, connect=5.0),
            limits=EVERY_TURN,
            event_hooks=HOOKS,
            trust_env=not settings.is_local,  # a proxy leads to a hosted one, not to this machine
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        held_to: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[Piece | Answer]:
        """Stream the answer to a whole conversation: pieces, then one Answer.

        messages, tools: as the protocol has them
        held_to: fields of the protocol that say what the answer must be
        """
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if tools:
            body["tools"] = list(tools)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        body |= held_to or {}
        collected = Collected()
        url = f"{self.settings.url}/chat/completions"
        try:
            async with self._http.stream("POST", url, json=body) as response:
                if response.status_code != 200:
                    raise self._refusal(response, await response.aread())
                kind = response.headers.get("Content-Type", "nothing")
                if not kind.startswith("text/event-stream"):
                    raise self._malformed(f"it answers with {kind}, not with a stream of events")
                async for data in _events(response):
                    if data == "[DONE]":
                        collected.done = True
                        break
                    piece = collected.add(self._chunk(data))
                    if piece.text or piece.reasoning:
                        yield piece
        except httpx.HTTPError as error:
            raise self._broken(str(error) or type(error).__name__) from error
        last = collected.end()
        if last.text or last.reasoning:
            yield last
        yield self._answer(collected)

    def _refusal(self, response: httpx.Response, body: bytes) -> EngineRefused:
        status = response.status_code
        said = self._shown(body.decode("utf-8", "replace"))
        what = f"backend {self.settings.url} refused the request with status {status}: {said}"
        if status in (401, 403):
            return BackendUnauthorized(
                f"{what} The session is unchanged. Check the key in the environment variable that "
                "the runtime was started with."
            )
        if status in (429, 503):
            wait = seconds_until(response.headers.get("Retry-After"))
            when = "later" if wait is None else f"in {wait:g} s"
            return BackendBusy(f"{what} The session is unchanged; repeat the turn {when}.", wait)
        return EngineRefused(what)

    def _chunk(self, data: str) -> Chunk:
        try:
            chunk = chunk_of(data)
        except ValueError as error:
            raise self._malformed(f"an event of its stream is not one: {data}") from error
        if chunk.error is not None:
            raise EngineRefused(
                f"backend {self.settings.url} gave up: {self._shown(json.dumps(chunk.error))} "
                "The session is unchanged."
            )
        return chunk

    def _answer(self, collected: Collected) -> Answer:
        usage = collected.usage
        if collected.finish_reason is None or (usage is None and not collected.done):
            raise self._broken("its stream ended in the middle of the answer")
        if usage is None:
            raise self._malformed(
                "it does not report its usage, and a turn says what was computed for it"
            )
        details = usage.prompt_tokens_details
        generated = usage.completion_tokens_details
        reasoning_tokens = None if generated is None else generated.reasoning_tokens
        if reasoning_tokens is None and not collected.reasoning:
            reasoning_tokens = 0
        return Answer(
            text=collected.text,
            reasoning=collected.reasoning,
            calls=collected.whole_calls(),
            finish_reason=collected.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=(details and details.cached_tokens) or 0,
            model=collected.model or self.settings.model,
            reasoning_tokens=reasoning_tokens,
        )

    def _broken(self, how: str) -> EngineUnreachable:
        return EngineUnreachable(
            f"backend {self.settings.url} broke off: {how}. The session is unchanged; repeat the "
            "turn."
        )

    def _malformed(self, how: str) -> BackendMalformed:
        return BackendMalformed(
            f"backend {self.settings.url} does not speak the protocol: {self._shown(how)} "
            "The session is unchanged."
        )

    def _shown(self, said: str) -> str:
        """What the endpoint said, cut, and without the key if it repeats that."""
        if self._key:
            said = said.replace(self._key, "[key]")
        said = said.strip()
        return f"{said[:_SHOWN]}…" if len(said) > _SHOWN else f"{said.rstrip('.')}."


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each server-sent event. Comments and other fields are passed over."""
    async for line in lines_of(response):
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()
