"""What call formats share: text, thinking between tags, and what was tolerated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import ClassVar

from tools.calls import Fresh, ParsedMessage, ToolCall
from tools.formats.tags import Lexer, Token

State = Callable[[Token], None]

_MOST_READ_AGAIN = 32  # times; each may read the rest of the message


class MessageParser:
    """Reads one message, piece by piece. One subclass for each format of calls.

    thinking: the prompt already opened the thinking, so the message begins inside it
    declared: names of the tools that there are, None if that is not known: what only may be a
              call is text unless it names one of them

    State: text → (<tool_call>) opened → what a subclass makes of it, and thought. The result never
    depends on where the text was split. `_held` is text of a beginning that may still turn out to
    be no call.
    """

    strings_only: ClassVar[bool]
    """Whether every argument is a string in this format, whatever the tool's schema says."""

    def __init__(self, *, thinking: bool = False, declared: Collection[str] | None = None) -> None:
        self._declared = declared
        self._lexer = Lexer()
        self._state: State = self._thought if thinking else self._text
        self._raw: list[str] = []
        self._shown: list[str] = []
        self._fresh: list[str] = []
        self._blanks: list[str] = []
        self._fresh_thoughts: list[str] = []
        self._thought_begun = False
        self._thought_blanks: list[str] = []
        self._reasoning: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._problems: dict[str, None] = {}
        self._block_open = False
        self._closable = False
        self._held: list[str] = []
        self._again: deque[Token] = deque()
        self._read_again_times = 0

    def feed(self, piece: str) -> str:
        """Take the next piece; return the visible text that has become certain: as `read`."""
        return self.read(piece).text

    def read(self, piece: str) -> Fresh:
        """Take the next piece; return what has become certain.

        What was returned is the beginning of the final message, but for two bent ones. When
        `</think>` comes without its opener, all before it was reasoning after all. When thinking
        does not end, its end may have been calls.
        """
        self._fresh, self._fresh_thoughts, known = [], [], len(self._calls)
        for token in self._lexer.feed(piece):
            self._again.append(token)
            self._drain()
        calls = tuple(self._calls[known:])
        return Fresh("".join(self._fresh), "".join(self._fresh_thoughts), calls)

    def finish(self, *, cut_off: bool = False) -> ParsedMessage:
        """End the message.

        cut_off: generation stopped at a limit, so a call still open is incomplete and not taken.
                 Otherwise its missing ends are supplied.
        """
        self._again.extend(self._lexer.finish())
        self._drain()
        while self._state == self._thought or self._end_open_call(cut_off):
            if self._state == self._thought:
                self._end_unclosed_thought()
            self._drain()
        return ParsedMessage(
            text="".join(self._shown),
            reasoning="\n".join(self._reasoning),
            calls=tuple(self._calls),
            problems=tuple(self._problems),
        )

    # ---- what a format does ------------------------------------------------------------------

    def _opened(self, token: Token) -> None:
        """After `<tool_call>`, which is in `_held`."""
        raise NotImplementedError

    def _tag_in_text(self, token: Token) -> None:
        """A tag of the format, or text, outside of any call."""
        raise NotImplementedError

    def _end_open_call(self, cut_off: bool) -> bool:
        """The message has ended, perhaps inside a call. True if something is to be read again."""
        raise NotImplementedError

    def _reads_calls(self) -> bool:
        """Whether a call has certainly begun and has not ended."""
        raise NotImplementedError

    def _keeps_think(self) -> bool:
        """Whether `</think>` is a part of a value here."""
        raise NotImplementedError

    def _find_call(self, thought: str) -> int | None:
        """Where the first thing that looks like a call stands in an unclosed thought."""
        raise NotImplementedError

    # ---- what they share ---------------------------------------------------------------------

    def _drain(self) -> None:
        while self._again:
            self._step(self._again.popleft())

    def _step(self, token: Token) -> None:
        if token.kind == "/think" and self._state != self._thought and not self._keeps_think():
            self._all_was_thinking()
            return
        self._raw.append(token.raw)
        self._state(token)

    def _text(self, token: Token) -> None:
        match token.kind:
            case "think":
                self._state = self._thought
            case "tool_call":
                if self._block_open:
                    self._problem("a <tool_call> was not closed")
                self._block_open = True
                self._held = [token.raw]
                self._state = self._opened
            case "/tool_call" if self._block_open or self._closable:
                self._block_open = self._closable = False
            case _:
                self._tag_in_text(token)

    def _thought(self, token: Token) -> None:
        if token.kind == "/think":
            self._end_thought("".join(self._thoughts))
        elif token.kind != "think" or self._thought_begun:
            self._think(token.raw)

    def _think(self, text: str) -> None:
        self._thoughts.append(text)
        if text.isspace():
            self._thought_blanks.append(text)
            return
        body = text.rstrip()
        if self._thought_begun:
            self._fresh_thoughts.append("".join((*self._thought_blanks, body)))
        else:
            self._fresh_thoughts.append("\n" * bool(self._reasoning) + body.lstrip())
        self._thought_begun = True
        self._thought_blanks = [text[len(body) :]]

    def _end_thought(self, thought: str) -> None:
        if thought.strip():
            self._reasoning.append(thought.strip())
        self._thoughts, self._thought_begun, self._thought_blanks = [], False, []
        self._raw = []
        self._state = self._text

    def _end_unclosed_thought(self) -> None:
        """Calls inside thinking that never ended are meant: the model forgot `</think>`."""
        self._problem("the thinking was not closed")
        thought = "".join(self._thoughts)
        start = self._find_call(thought) if self._may_read_again() else None
        self._end_thought(thought[:start])
        if start is not None:
            self._read_again(thought[start:])

    def _read_again(self, text: str) -> None:
        """Once the present token is done with, and before the next one."""
        self._read_again_times += 1
        lexer = Lexer()
        self._again.extendleft(reversed([*lexer.feed(text), *lexer.finish()]))

    def _give_back(self, rest: str) -> None:
        """The end of the present text is the next token."""
        left = len(rest)
        while left > 0:
            last = self._raw.pop()
            left -= len(last)
        if left:
            self._raw.append(last[:-left])
        self._again.appendleft(Token("text", "", rest))

    def _may_read_again(self) -> bool:
        """No longer in messages that would have it done for each of their parts."""
        return self._read_again_times < _MOST_READ_AGAIN

    def _all_was_thinking(self) -> None:
        self._problem("thinking was closed but never opened: all before it is taken as reasoning")
        if self._calls or self._reads_calls():
            self._problem("tool calls inside the thinking were not taken")
        self._calls, self._shown, self._fresh, self._blanks = [], [], [], []
        self._block_open = self._closable = False
        self._end_thought("".join(self._raw))

    def _say(self, text: str) -> None:
        if not text.strip():
            self._blanks.append(text)
            return
        if self._block_open:
            self._problem("a <tool_call> was not closed")
        if self._calls:
            self._problem("there was text after a tool call")
        self._block_open = self._closable = False
        whole = "".join((*self._blanks, text)) if self._shown else text.lstrip()
        body = whole.rstrip()
        self._shown.append(body)
        self._fresh.append(body)
        self._blanks = [whole[len(body) :]]

    def _not_a_call(self) -> None:
        self._problem(f"{self._held[0]} began no call and is taken as text")
        self._block_open = False
        self._state = self._text
        self._say("".join(self._held))

    def _empty_block(self) -> None:
        self._problem("a <tool_call> was empty")
        self._block_open = False
        self._state = self._text

    def _is_declared(self, name: str) -> bool:
        return self._declared is None or name in self._declared

    def _problem(self, sentence: str) -> None:
        self._problems[sentence] = None
