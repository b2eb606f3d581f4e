"""The messages that a history of token ids is of, read off how the checkpoint's template puts them.

Messages end with the eos token. What the template writes around a text is learned from short
conversations with stand-ins in their places:

    <|im_start|>user⏎<tool_response>⏎ X ⏎</tool_response>⏎<tool_response>⏎ Y ⏎</tool_response>⏎
    └──────────── before ────────────┘ └─────────── between ────────────┘ └────── after ──────┘

Control tokens are told from their words in a message, so no text is taken for a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agent_runtime.errors import BadRequest
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.wire.messages import Message, Options
from tools.calls import ToolCall
from tools.define import ToolSpec
from tools.formats import parse

_X, _Y = "\uf8f1", "\uf8f2"  # private use: no template writes them itself
_USER = Message(role="user", content="u")
_ANSWER = Message(role="assistant", content="a")
_CALL = ToolCall(name="f", arguments={"a": "v"})


@dataclass(frozen=True)
class Placed:
    """A message, where the block that it is in ends, in tokens, and its number in that. Its role is
    "" if it cannot be told."""

    end: int
    number: int
    message: Message


def messages_from_end(
    chat: ChatFormat,
    ids: Sequence[int],
    *,
    start: int,
    system: str | None,
    tools: Sequence[ToolSpec],
) -> Iterator[Placed]:
    """The last message first; each is read when it is taken.

    ids:   a history from token `start` on; a message that may have begun before that is left out
    system, tools: of the session, which its history begins with as the template shows them

    The first message is the system text, if there is one. Results of tools that the template puts
    into one block are messages of their own. An answer that has not begun is none.
    """
    blocks = _Blocks(chat, system, tools)
    ends = [at + 1 for at, one in enumerate(ids) if one == chat.eos_id]
    places = list(pairwise([*([] if start else [0]), *ends, len(ids)]))
    for begin, end in reversed(places):
        if begin < end:
            read = blocks.read(ids[begin:end], is_first=start + begin == 0)
            for number, message in reversed(list(enumerate(read))):
                yield Placed(start + end, number, message)


def calls_at_end(chat: ChatFormat, ids: Sequence[int], *, tools: Sequence[ToolSpec]) -> int | None:
    """How many calls the answer makes that `ids` end with; None if they end with none that can be
    read."""
    start = max(0, len(ids) - 1)
    while start and ids[start - 1] != chat.eos_id:
        start -= 1
    last = next(messages_from_end(chat, ids[start:], start=0, system=None, tools=tools), None)
    if last is None or last.message.role != "assistant":
        return None
    return len(last.message.tool_calls)


@dataclass(frozen=True)
class _Frame:
    """What stands around a text of the role; between: several of them, None if they do not share
    a block"""

    role: str
    before: str
    after: str
    between: str | None = None

    def texts(self, block: str) -> list[str] | None:
        """Those in the block; None if it is none of these."""
        if len(block) < len(self.before) + len(self.after):
            return None
        if not (block.startswith(self.before) and block.endswith(self.after)):
            return None
        inner = block[len(self.before) : len(block) - len(self.after)]
        return [inner] if self.between is None else inner.split(self.between)


class _Blocks:
    """A block is what stands before an eos token, from the one before it."""

    def __init__(self, chat: ChatFormat, system: str | None, tools: Sequence[ToolSpec]) -> None:
        self._chat = chat
        self._system = system
        self._tools = tools
        self._opening = _system_opening(chat)
        self._answer = chat.header.lstrip()
        results = _results(chat)
        self._frames = [*([] if results is None else [results]), *_asked(chat)]

    def read(self, ids: Sequence[int], *, is_first: bool) -> list[Message]:
        eos = self._chat.eos_text
        ended = ids[-1] == self._chat.eos_id
        block = self._chat.marked(ids[:-1] if ended else ids).lstrip()
        if is_first and self._opening and block.startswith(self._opening):
            return [Message(role="system", content=self._system)] if self._system else []
        if self._answer and block.startswith(self._answer):
            return self._answered(block.removeprefix(self._answer), cut_off=not ended)
        for frame in self._frames:
            if (texts := frame.texts(block)) is not None:
                return [
                    Message(role=frame.role, content=self._chat.unmarked(text)) for text in texts
                ]
        text = self._chat.unmarked(block).replace(eos, "").strip()
        return [Message(role="", content=text)] if text else []

    def _answered(self, body: str, *, cut_off: bool) -> list[Message]:
        chat = self._chat
        said = parse(chat.unmarked(body), chat.calls, tools=self._tools, cut_off=cut_off)
        if cut_off and not (said.text or said.reasoning or said.calls):
            return []
        return [
            Message(
                role="assistant", content=said.text, tool_calls=said.calls, reasoning=said.reasoning
            )
        ]


def _system_opening(chat: ChatFormat) -> str:
    shown = chat.rendered([_USER], system=_X, tools=(), prompt=False).partition(chat.eos_text)[0]
    before, found, _ = shown.partition(_X)
    return before.lstrip() if found else ""


def _asked(chat: ChatFormat) -> Iterator[_Frame]:
    """Of a user's message: with the hints of efforts that it may carry, and without."""
    said = [_USER, _ANSWER, Message(role="user", content=_X)]
    frames = [
        frame
        for options in (*chat.efforts.values(), {})
        if (frame := _frame(chat, "user", said, options)) is not None
    ]
    yield from sorted(dict.fromkeys(frames), key=lambda one: len(one.after), reverse=True)


def _results(chat: ChatFormat) -> _Frame | None:
    """None if the template knows no results of tools."""
    one, other = (Message(role="tool", content=text) for text in (_X, _Y))
    called = Message(role="assistant", content="", tool_calls=(_CALL,))
    twice = called.model_copy(update={"tool_calls": (_CALL, _CALL)})
    try:
        frame = _frame(chat, "tool", [_USER, called, one], {})
        both = chat.rendered([_USER, twice, one, other], system=None, tools=(), prompt=False)
    except BadRequest:
        return None
    if frame is None:
        return None
    between = both.partition(_X)[2].partition(_Y)[0]
    shared = bool(between) and chat.eos_text not in between
    return _Frame("tool", frame.before, frame.after, between if shared else None)


def _frame(chat: ChatFormat, role: str, said: Sequence[Message], options: Options) -> _Frame | None:
    """Around the last of the messages, which says _X."""
    shown = chat.rendered(said, system=None, tools=(), options=options, prompt=False)
    before, found, after = shown.partition(_X)
    if not found or chat.eos_text not in after:
        return None
    before = before.rpartition(chat.eos_text)[2].lstrip()
    return _Frame(role, before, after.partition(chat.eos_text)[0])
