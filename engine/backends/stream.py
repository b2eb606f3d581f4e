"""The events of a streamed chat completion, and the answer that they add up to.

What servers are known to do otherwise than OpenAI is taken as it is meant: null for what is not
there, calls without an index or all with the same one, characters that are cut in two between
events.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field


@dataclass(frozen=True)
class Piece:
    """What one event of the stream brought."""

    text: str
    reasoning: str


@dataclass(frozen=True)
class Call:
    """A tool call. arguments: JSON text as the endpoint wrote it, which may not be any."""

    id: str
    name: str
    arguments: str


_UTF_16 = "utf-16-le"


def _in_halves(value: object) -> object:
    return value.encode(_UTF_16, "surrogatepass") if isinstance(value, str) else value


def _whole(value: object) -> object:
    """Without halves of characters: each is replaced by U+FFFD."""
    halves = _in_halves(value)
    return halves.decode(_UTF_16, "replace") if isinstance(halves, bytes) else halves


Halves = Annotated[bytes, BeforeValidator(_in_halves)]
"""Text as UTF-16, little endian: JSON can end in the middle of a character."""
Text = Annotated[str, BeforeValidator(_whole)]


class Function(BaseModel):
    name: Text | None = None
    arguments: Halves | None = None


class CallPart(BaseModel):
    index: int | None = None
    id: Text | None = None
    function: Function | None = None


class Delta(BaseModel):
    content: Halves | None = None
    reasoning_content: Halves | None = None
    reasoning: Halves | None = None  # vLLM's name for it
    tool_calls: list[CallPart] | None = None


class Choice(BaseModel):
    delta: Delta | None = None
    finish_reason: Text | None = None


class Cached(BaseModel):
    cached_tokens: int | None = Field(default=None, ge=0)


class Generated(BaseModel):
    reasoning_tokens: int | None = Field(default=None, ge=0)


class Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    prompt_tokens_details: Cached | None = None
    completion_tokens_details: Generated | None = None


class Chunk(BaseModel):
    """One event."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    model: Text | None = None
    error: Any = None


def chunk_of(data: str) -> Chunk:
    """data: JSON text. Raises ValueError for what is no event."""
    try:
        return Chunk.model_validate(json.loads(data))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


class Collected:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self.text = self.reasoning = ""
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.model: str | None = None
        self.done = False
        self._text, self._reasoning = _Joined(), _Joined()
        self._calls: list[_OpenCall] = []
        self._places: dict[int, int] = {}

    def add(self, chunk: Chunk) -> Piece:
        """Raises nothing: a choice without content is none."""
        self.usage = chunk.usage or self.usage
        self.model = chunk.model or self.model
        text = reasoning = b""
        for choice in (chunk.choices or ())[:1]:
            delta = choice.delta or Delta()
            text = delta.content or b""
            reasoning = delta.reasoning_content or delta.reasoning or b""
            self.finish_reason = choice.finish_reason or self.finish_reason
            for part in delta.tool_calls or ():
                self._add_to_call(part)
        return self._brought(self._text.add(text), self._reasoning.add(reasoning))

    def end(self) -> Piece:
        """What was held back for the other half of its last character: that never came."""
        return self._brought(self._text.end(), self._reasoning.end())

    def whole_calls(self) -> tuple[Call, ...]:
        """In the order in which they began."""
        return tuple(call.whole() for call in self._calls)

    def _brought(self, text: str, reasoning: str) -> Piece:
        self.text += text
        self.reasoning += reasoning
        return Piece(text, reasoning)

    def _add_to_call(self, part: CallPart) -> None:
        at = len(self._calls) - 1 if part.index is None else self._places.get(part.index, -1)
        if at < 0 or self._calls[at].is_another(part):
            at = len(self._calls)
            self._calls.append(_OpenCall())
        if part.index is not None:
            self._places[part.index] = at
        self._calls[at].add(part)


class _OpenCall:
    """A call as far as it has come."""

    def __init__(self) -> None:
        self._id = self._name = self._text = ""
        self._arguments = _Joined()

    def is_another(self, part: CallPart) -> bool:
        """Whether `part` begins a call of its own. One that goes on names no function; ids alone do
        not tell: some servers make up a new one for each part."""
        if part.function is None or not part.function.name or not self._name:
            return False
        if part.id and self._id:
            return part.id != self._id
        return part.index is None

    def add(self, part: CallPart) -> None:
        function = part.function or Function()
        self._id = self._id or part.id or ""
        self._name = function.name or self._name
        self._text += self._arguments.add(function.arguments or b"")

    def whole(self) -> Call:
        return Call(self._id, self._name, self._text + self._arguments.end())


class _Joined:
    """Text from pieces that may be cut in the middle of a character. The half at the end of one is
    held back for the next; a half without its other is replaced by U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder(_UTF_16)("replace")

    def add(self, piece: bytes) -> str:
        return self._decoder.decode(piece)

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)
