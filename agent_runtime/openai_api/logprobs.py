"""Log-probabilities with the texts of their tokens: the engine knows ids only.

Reasoning has a list of its own, as at DeepSeek; in `content` are the tokens behind it, with
calls as the model writes them, up to its end token, or to the one in which the text of `stop`
begins.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.turns.thinking import reasoning_tokens
from agent_runtime.wire.turns import TokenLogprob, TurnResult


def logprobs_of(result: TurnResult, chat: ChatFormat, *, top: int) -> dict[str, Any]:
    """top: how many alternatives are shown of each token."""
    spelling = Spelling(chat.tokenizer)
    end = _end(result, chat, spelling)
    shown = [_shown(position, spelling, top) for position in result.logprobs[:end]]
    thinking = reasoning_tokens(chat, result.token_ids, result.reasoning)
    logprobs: dict[str, Any] = {"content": shown[thinking:], "refusal": None}
    if thinking:
        logprobs["reasoning_content"] = shown[:thinking]
    return logprobs


class Spelling:
    """The bytes that tokens stand for; a character may have several tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._whole = {
            token: added.content for token, added in tokenizer.get_added_tokens_decoder().items()
        }
        self._is_byte_level = "ByteLevel" in repr(tokenizer.decoder)

    def bytes_of(self, token: int) -> bytes:
        if token in self._whole:
            return self._whole[token].encode()
        spelled: str | None = self._tokenizer.id_to_token(token)
        if spelled is not None and self._is_byte_level:
            return bytes(_BYTES[character] for character in spelled)
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return text.encode()


def _bytes() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes as, since GPT-2: printable ones as
    themselves, all others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _bytes()


def _end(result: TurnResult, chat: ChatFormat, spelling: Spelling) -> int:
    """How many of the generated tokens are before what ended the answer."""
    ids = result.token_ids
    if result.stopped_by is not None:
        spelled = [spelling.bytes_of(token) for token in ids]
        ends = list(accumulate(map(len, spelled)))
        return bisect_right(ends, b"".join(spelled).index(result.stopped_by.encode()))
    return len(ids) - 1 if ids and ids[-1] == chat.eos_id else len(ids)


def _shown(position: TokenLogprob, spelling: Spelling, top: int) -> dict[str, Any]:
    return {
        **_one(position.token, position.logprob, spelling),
        "top_logprobs": [_one(one.token, one.logprob, spelling) for one in position.top[:top]],
    }


def _one(token: int, logprob: float, spelling: Spelling) -> dict[str, Any]:
    spelled = spelling.bytes_of(token)
    return {
        "token": spelled.decode("utf-8", "replace"),
        "logprob": logprob,
        "bytes": list(spelled),
    }
