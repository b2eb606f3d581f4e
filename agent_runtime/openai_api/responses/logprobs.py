"""Log-probabilities of the tokens that a message's text has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api.logprobs import logprobs_of
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.wire.turns import TurnResult


def with_logprobs(
    output: Sequence[Item], result: TurnResult, chat: ChatFormat, *, top: int
) -> list[Item]:
    """The items, with the tokens of the message in it. top: alternatives shown of each"""
    tokens = logprobs_of(result, chat, top=top)["content"]
    return [
        item
        if item["type"] != "message"
        else item | {"content": [_part(part, tokens) for part in item["content"]]}
        for item in output
    ]


def _part(part: dict[str, Any], tokens: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Without tokens of calls, and of blanks around the text."""
    generated = b"".join(bytes(token["bytes"]) for token in tokens)
    text = part["text"].encode()
    begin = max(0, generated.find(text))
    ends = accumulate(len(token["bytes"]) for token in tokens)
    shown = [
        token
        for token, end in zip(tokens, ends, strict=True)
        if end > begin and end - len(token["bytes"]) < begin + len(text)
    ]
    return part | {"logprobs": shown}
