"""How long a model thinks before it answers: counted, and ended for it after so many tokens.

    prompt  <think> t1 t2 … tn │ </think> │ answer …
                               │          └ a second request to the engine, behind all of that
                               └ written for the model, unless it has ended its thinking by then

The engine is asked to stop at the end tag and after `n` tokens, whichever comes first. What is
written for the model is part of the history as if it had come from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from agent_runtime.errors import Unsupported
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.wire.messages import Message
from engine.client import Chunk

_BEGIN, _END = "<think>", "</think>"


class ThinkingLimit:
    """Of one answer.

    is_open: whether the model may still be thinking, and the limit is to be looked at
    ended_at: how many tokens of the answer had come when it was over; 0 without a limit
    """

    def __init__(
        self, chat: ChatFormat, tokens: int | None, *, opened: bool, max_tokens: int
    ) -> None:
        """tokens: None for no limit; opened: whether the prompt ends inside of the thinking;
        max_tokens: of the whole answer

        Raises Unsupported if the end tag is no token of the model's.
        """
        self.is_open = tokens is not None
        self.ended_at = 0
        self._chat = chat
        self._tokens = tokens or 0
        self._opened = opened
        self._max_tokens = max_tokens
        self._cached: int | None = None
        self._end_id = chat.tokenizer.token_to_id(_END)
        if self.is_open and self._end_id is None:
            raise Unsupported(
                f"thinking cannot be limited: {_END} is no token of the model's. Nothing was "
                "generated.",
                param="thinking_tokens",
            )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """At which the engine is to stop, besides the eos token."""
        return (self._end_id,) if self.is_open and self._end_id is not None else ()

    def most(self, tokens: int, *, generated: int) -> int:
        """How many more the engine may generate, of `tokens` that there is room for."""
        return min(tokens, max(1, self._tokens - generated)) if self.is_open else tokens

    async def applied(
        self, chunks: AsyncGenerator[Chunk], ids: Sequence[int], *, held: bool
    ) -> AsyncGenerator[Chunk]:
        """The engine's chunks, and behind them the end of the thinking if it has to be written.

        ids: of the answer, to which whoever reads the chunks adds theirs
        held: whether the answer is held to a grammar. The thinking is not, so the model may end
        everything in the middle of it: that end is left out, and the answer is asked for.
        """
        last: Chunk | None = None
        async with aclosing(chunks):
            async for chunk in chunks:
                if held and self.is_open:
                    chunk = _without(self._chat.eos_id, chunk)
                last = chunk
                if self._cached is not None:  # what the first request found is what was reused
                    last = dataclasses.replace(last, cached_tokens=self._cached)
                yield last
        if not self.is_open or last is None or (ids and ids[-1] == self._chat.eos_id):
            return
        self._cached = last.cached_tokens
        yield dataclasses.replace(
            last, new_ids=self._ending(ids), logprobs=(), finish_reason="length"
        )

    def end(self, generated: int) -> None:
        """The answer begins behind so many tokens."""
        self.is_open, self.ended_at = False, generated

    def _ending(self, ids: Sequence[int]) -> tuple[int, ...]:
        if self._end_id in ids or not (self._opened or _BEGIN in self._chat.decode(ids)):
            return ()
        ending = self._chat.encode(ending_of(self._chat))
        return tuple(ending[: self._max_tokens - len(ids)])


def _without(token: int, chunk: Chunk) -> Chunk:
    return dataclasses.replace(chunk, new_ids=tuple(one for one in chunk.new_ids if one != token))


def ending_of(chat: ChatFormat) -> str:
    """What the chat template writes between the thinking and the text of an answer."""
    said = [
        Message(role="user", content="u"),
        Message(role="assistant", content="[answer]", reasoning="[thought]"),
    ]
    shown = chat.rendered(said, system=None, tools=(), prompt=False)
    between = shown.partition("[thought]")[2].partition("[answer]")[0]
    return between if _END in between else f"\n{_END}\n"


def reasoning_tokens(chat: ChatFormat, ids: Sequence[int], reasoning: str) -> int:
    """How many of an answer's tokens are reasoning, with its end tag. reasoning: as it was read"""
    if not reasoning:
        return 0
    if _END not in chat.decode(ids):  # one that was cut off is all that there is
        return len(ids)
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if _END in chat.decode(ids[:middle]):
            high = middle
        else:
            low = middle + 1
    return low
