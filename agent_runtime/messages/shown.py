"""What the chat template shows of a conversation, held against what the state has of it.

Templates change their mind about earlier turns: thinking before the last user message is emptied,
a hint moves on to the newest message. Messages end with the eos token, in the text that the
template writes as in the ids, so the two are compared block by block:

    state       <system> <user> <assistant: thinking, answer> <user> <assistant: …>
    shown now   <system> <user> <assistant: answer> <user> <assistant: …> <user> <assistant:
                                 └ from here on anew

What the model wrote counts as shown if the template shows the message that it is read as: blanks
that a template would place otherwise are no reason to compute anything again. Thinking that was
begun and not ended is no such case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent_runtime.errors import TemplateRewrites
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.wire.messages import Message, Options
from tools.define import ToolSpec
from tools.formats import parse

_THINKING = ("<think>", "</think>")


@dataclass(frozen=True)
class Shown:
    """kept: tokens of the history that the template shows as they are; all of them if it can be
          appended to
    past: ids that follow them, to the end of what was said before, as the template shows it
    new:  ids of the new messages and of the prompt for the answer
    text: of all of them, as `ChatFormat.marked` gives it
    """

    kept: int
    past: list[int]
    new: list[int]
    text: str


class Showing:
    """How a checkpoint's template shows the conversations of one session."""

    def __init__(
        self,
        chat: ChatFormat,
        *,
        system: str | None,
        tools: Sequence[ToolSpec],
        options: Options,
    ) -> None:
        self._chat = chat
        self._system = system
        self._tools = tools
        self._options = options

    def continued(
        self, said: Sequence[Message], new: Sequence[Message], ids: Sequence[int], text: str
    ) -> Shown:
        """What makes of `ids` what the template shows of all messages.

        said: the messages that `ids` are of, an answer at their end
        text: of `ids`, as `ChatFormat.marked` gives it

        Raises BadRequest, UnknownOption, TemplateRewrites.
        """
        chat, eos = self._chat, self._chat.eos_text
        shown = self._rendered([*said, *new], prompt=True)
        ended = bool(ids) and ids[-1] == chat.eos_id
        held = text if ended else text + eos
        if shown.startswith(held):
            return self._appended(text, shown[len(held) :], ids, ended=ended)
        have, show = held.split(eos)[:-1], shown.split(eos)
        same = 0
        while same < min(len(have), len(show) - 1):
            if have[same] != show[same] and not self._is_read_as(have[same], show[same]):
                break
            same += 1
        if same == len(have):
            return self._appended(text, eos.join(show[same:]), ids, ended=ended)
        kept, cut = self._common(ids, same, show[same])
        rest = eos.join(show[same:])[cut:]
        past = self._rendered(said, prompt=False).count(eos)
        end = max(0, sum(len(block) + len(eos) for block in show[same:past]) - cut)
        before = "".join(block + eos for block in have[:same]) + show[same][:cut]
        return Shown(kept, chat.encode(rest[:end]), chat.encode(rest[end:]), before + rest)

    def answer_in(self, text: str) -> Message:
        """The assistant's message that `text`, of a history, ends with. Raises TemplateRewrites if
        it does not begin as this template begins answers."""
        eos = self._chat.eos_text
        block = text.removesuffix(eos).rpartition(eos)[2]
        body = self._body(block)
        if body is None:
            raise TemplateRewrites(
                "the history does not end with an answer as the chat template begins one, so it "
                "cannot be read; the session is unchanged."
            )
        return self._read(body, cut_off=not text.endswith(eos))

    def _appended(self, text: str, more: str, ids: Sequence[int], *, ended: bool) -> Shown:
        more = more if ended else self._chat.eos_text + more
        return Shown(len(ids), [], self._chat.encode(more), text + more)

    def _is_read_as(self, held: str, shown: str) -> bool:
        """Whether the block that is `held` is an answer that the template shows as `shown`."""
        body = self._body(held)
        if body is None or any(held.count(tag) != shown.count(tag) for tag in _THINKING):
            return False
        stand_in = Message(role="user", content="u")
        return any(
            self._stand_in([stand_in, answer], prompt=False).split(self._chat.eos_text)[-2] == shown
            for answer in (self._read(body, cut_off=False), self._read(body, cut_off=True))
        )

    def _body(self, block: str) -> str | None:
        """What an assistant has said in a block, its thinking included; None if it is no answer."""
        stand_in = [Message(role="user", content="u")]
        before = self._stand_in(stand_in, prompt=False)
        opened = self._stand_in(stand_in, prompt=True)[len(before) :]
        between = before.rpartition(self._chat.eos_text)[2]
        header = between + opened.partition("<think>")[0]
        return block.removeprefix(header) if block.startswith(header) else None

    def _read(self, body: str, *, cut_off: bool) -> Message:
        said = parse(
            self._chat.unmarked(body), self._chat.calls, tools=self._tools, cut_off=cut_off
        )
        return Message(
            role="assistant",
            content=said.text,
            tool_calls=said.calls,
            reasoning=said.reasoning,
        )

    def _common(self, ids: Sequence[int], blocks: int, shown: str) -> tuple[int, int]:
        """How far `ids` are what is shown: in tokens, and in characters of the block `shown` that
        comes after so many equal ones. Always where ids may be cut."""
        eos, undivided = self._chat.eos_id, self._chat.undivided
        start = 0
        for _ in range(blocks):
            start = _index(ids, eos, start) + 1
        kept, cut = start, 0
        for place in range(start, _index(ids, eos, start)):
            if ids[place] in undivided:
                piece = self._chat.marked(ids[kept : place + 1])
                if not shown.startswith(piece, cut):
                    break
                kept, cut = place + 1, cut + len(piece)
        return kept, cut

    def _rendered(self, messages: Sequence[Message], *, prompt: bool) -> str:
        return self._chat.rendered(
            messages, system=self._system, tools=self._tools, options=self._options, prompt=prompt
        )

    def _stand_in(self, messages: Sequence[Message], *, prompt: bool) -> str:
        return self._chat.rendered(
            messages, system=None, tools=self._tools, options=self._options, prompt=prompt
        )


def _index(ids: Sequence[int], token: int, start: int) -> int:
    """Of the first such token from `start` on; the end if there is none."""
    try:
        return ids.index(token, start)
    except ValueError:
        return len(ids)
