"""An answer as the events of the Responses API, as it comes.

    created, in_progress
      output_item.added                            reasoning
        content_part.added  reasoning_text.delta…  reasoning_text.done  content_part.done
      output_item.done
      output_item.added                            message
        content_part.added  output_text.delta…     output_text.done     content_part.done
      output_item.done
      output_item.added  function_call_arguments.delta  .done  output_item.done
    completed, incomplete or failed

Calls come whole: what a model writes of one is no JSON before its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent_runtime.openai_api.messages import Ids
from agent_runtime.openai_api.responses.items import (
    Item,
    call_item,
    message_item,
    reasoning_item,
    text_part,
)
from agent_runtime.wire.events import Progress, Reasoning, Text, ToolCalled, TurnEvent
from agent_runtime.wire.turns import TurnResult
from tools.define import ToolSpec

Told = dict[str, Any]
"""One event; its name is its `type`."""
LAST = {f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")}
"""The types of a stream's last event."""


@dataclass
class _Open:
    """The item that is being written."""

    id: str
    index: int
    is_reasoning: bool
    text: str = ""


class Telling:
    """Tells of one answer.

    output: the items that are told to their end, in the order of their `output_index`
    """

    def __init__(self, ids: Ids, tools: Sequence[ToolSpec]) -> None:
        self._ids = ids
        self._tools = tools
        self.output: list[Item] = []
        self._sequence = 0
        self._items = 0
        self._calls = 0
        self._text_is_done = False
        self._open: _Open | None = None

    def begun(self, response: Told) -> Iterator[Told]:
        """response: as it is in progress"""
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def told(self, event: TurnEvent) -> Iterator[Told]:
        match event:
            case Reasoning():
                yield from self._piece(event.text, is_reasoning=True)
            case Text() if not self._text_is_done:
                yield from self._piece(event.text, is_reasoning=False)
            case ToolCalled():
                yield from self._close()
                yield from self._call(call_item(self._ids, self._calls, event, self._tools))
                self._calls += 1
            case Text() | Progress() | TurnResult():
                pass

    def rest(self, result: TurnResult) -> Iterator[Told]:
        """What its pieces did not tell: a message that had to be put right is whole in the result
        only."""
        if self._open is not None and self._open.is_reasoning:
            yield from self._close(result.reasoning)
        shown = "" if self._open is None else self._open.text
        if not self._text_is_done and result.text.startswith(shown):
            if more := result.text[len(shown) :]:
                yield from self._piece(more, is_reasoning=False)
            elif not self._items and not result.tool_calls:
                yield from self._begin(is_reasoning=False)
        status = "incomplete" if result.finish_reason == "length" else "completed"
        yield from self._close(result.text, status=status)
        for call in result.tool_calls[self._calls :]:
            yield from self._call(call_item(self._ids, self._calls, call, self._tools))
            self._calls += 1
        for place, item in enumerate(self.output):  # text behind a call came when it was told
            if item["type"] == "message":
                said = message_item(item["id"], result.text, status=item["status"])
                self.output[place] = said

    def again(self, response: Told) -> Iterator[Told]:
        """Of a response that is whole, from the first event to the last."""
        begun = response | {"status": "in_progress", "output": [], "usage": None}
        yield from self.begun(begun | {"incomplete_details": None})
        for item in response["output"]:
            if item["type"] == "function_call":
                yield from self._call(item)
                continue
            text = "".join(part["text"] for part in item["content"])
            yield from self._piece(text, is_reasoning=item["type"] == "reasoning")
            yield from self._close(status=item["status"])
        yield self.ended(response)

    def ended(self, response: Told) -> Told:
        """response: `completed`, `incomplete` or `failed`"""
        return self._event(f"response.{response['status']}", response=response)

    def _event(self, kind: str, **fields: Any) -> Told:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _begin(self, *, is_reasoning: bool) -> Iterator[Told]:
        prefix = "rs_" if is_reasoning else "msg_"
        self._open = _Open(self._ids.of(prefix), self._items, is_reasoning)
        self._items += 1
        item = _item(self._open, None, status="in_progress")
        yield self._event("response.output_item.added", output_index=self._open.index, item=item)
        yield self._of_part("response.content_part.added", part=_part(self._open, ""))

    def _piece(self, text: str, *, is_reasoning: bool) -> Iterator[Told]:
        if self._open is not None and self._open.is_reasoning is not is_reasoning:
            yield from self._close()
        if self._open is None:
            yield from self._begin(is_reasoning=is_reasoning)
        assert self._open is not None, "it was begun"
        self._open.text += text
        logprobs: dict[str, Any] = {} if is_reasoning else {"logprobs": []}
        yield self._of_part(f"response.{_name(self._open)}.delta", delta=text, **logprobs)

    def _close(self, text: str | None = None, *, status: str = "completed") -> Iterator[Told]:
        """text: of the whole item, what was told of it if None"""
        if self._open is None:
            return
        text = self._open.text if text is None else text
        logprobs: dict[str, Any] = {} if self._open.is_reasoning else {"logprobs": []}
        yield self._of_part(f"response.{_name(self._open)}.done", text=text, **logprobs)
        yield self._of_part("response.content_part.done", part=_part(self._open, text))
        item = _item(self._open, text, status=status)
        yield self._event("response.output_item.done", output_index=self._open.index, item=item)
        self.output.append(item)
        self._text_is_done = self._text_is_done or not self._open.is_reasoning
        self._open = None

    def _of_part(self, kind: str, **fields: Any) -> Told:
        assert self._open is not None, "a part is of an item"
        return self._event(
            kind, item_id=self._open.id, output_index=self._open.index, content_index=0, **fields
        )

    def _call(self, item: Item) -> Iterator[Told]:
        index = self._items
        self._items += 1
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        place = {"item_id": item["id"], "output_index": index}
        arguments = item["arguments"]
        yield self._event("response.function_call_arguments.delta", **place, delta=arguments)
        yield self._event(
            "response.function_call_arguments.done", **place, name=item["name"], arguments=arguments
        )
        yield self._event("response.output_item.done", output_index=index, item=item)
        self.output.append(item)


def _name(item: _Open) -> str:
    return "reasoning_text" if item.is_reasoning else "output_text"


def _item(item: _Open, text: str | None, *, status: str) -> Item:
    made = reasoning_item if item.is_reasoning else message_item
    return made(item.id, text, status=status)


def _part(item: _Open, text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text} if item.is_reasoning else text_part(text)
