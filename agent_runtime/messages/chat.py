"""From messages to token ids, as deltas that continue what the state already holds.

A session's history is token ids. Nothing in it is ever rendered or tokenized again: new
messages are rendered behind a stand-in for the last assistant turn, with the checkpoint's own
chat template, and only what the template appends is tokenized. Special tokens delimit every
message, so tokenizing the delta alone gives the ids that tokenizing the whole text would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from agent_runtime.errors import BadRequest, SetupError, TemplateRewrites
from agent_runtime.messages.efforts import efforts_of
from agent_runtime.messages.order import require_appendable
from agent_runtime.messages.template import Template
from agent_runtime.wire.messages import Message, Options
from tools.define import ToolSpec
from tools.formats import HERMES, QWEN3_CODER

# Private-use characters around a third that says which reserved word stood there.
_OPEN, _CLOSE, _FIRST = "\ue000", "\ue001", 0xE100
_MARKED = re.compile(f"{_OPEN}(.){_CLOSE}", re.DOTALL)

_NONE: Options = {}
_CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": "v"}}}
_HERMES_CALL = re.compile(r"<tool_call>\s*\{\s*\"name\"")
_STAND_IN = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


class ChatFormat:
    """The tokenizer and chat template of one checkpoint directory.

    Raises SetupError when `tokenizer.json` or the template is missing or malformed.
    """

    def __init__(self, model_dir: Path) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
            # It would only take spaces off the places of tokens: special ones are never added.
            self.tokenizer.post_processor = None
            self._literal = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
            config = json.loads((model_dir / "tokenizer_config.json").read_text())
            self.template = Template((model_dir / "chat_template.jinja").read_text())
        except Exception as error:  # tokenizers raises bare Exception
            raise SetupError(
                f"{model_dir} has no usable tokenizer and chat template: {error}. "
                "Point --model at a complete checkpoint, or run `make model` in Torpor's "
                "repository, which makes the demo model."
            ) from error
        self.efforts = efforts_of(self.template)
        """How much it can be told to think, see `efforts_of`."""
        self.eos_text: str = config["eos_token"]
        eos = self.tokenizer.token_to_id(self.eos_text)
        if eos is None:
            raise SetupError(f"{model_dir}: eos_token {self.eos_text!r} is not in the tokenizer.")
        self.eos_id: int = eos
        self._literal.encode_special_tokens = True
        added = self.tokenizer.get_added_tokens_decoder()
        # Runs of blanks, which some tokenizers have among them, delimit nothing.
        self._control = {number: t.content for number, t in added.items() if t.content.strip()}
        self._literal.add_special_tokens(
            [AddedToken(t, special=True) for t in self._control.values()]
        )
        self._reserved = [*self._control.values(), _OPEN]
        self._marks = {
            word: f"{_OPEN}{chr(_FIRST + place)}{_CLOSE}"
            for place, word in enumerate(self._reserved)
        }
        self.undivided: frozenset[int] = frozenset(
            number for number, token in added.items() if not token.rstrip
        )
        """Tokens that what follows them is never joined with: ids may be cut after them."""
        # The longest first: one may begin as another does.
        words = sorted(self._reserved, key=len, reverse=True)
        self._reserved_pattern = re.compile("|".join(map(re.escape, words)))
        stand_in = [{"role": "user", "content": "u"}]
        asked = self._render(stand_in, (), _NONE, prompt=False)
        opened = self._render(stand_in, (), _NONE, prompt=True).removeprefix(asked)
        self.header: str = opened.partition("<think>")[0]
        """How an answer is opened, before any thinking."""
        self.opens_thinking: bool = opened.rstrip().endswith("<think>")
        """Whether an answer begins inside the model's thinking, unless options say otherwise."""
        self.calls: str = self._calls()
        """The format of tool calls that the template shows, and so the model has learned."""

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text. Control tokens are what the template wrote, never what a message or
        the declaration of a tool says: a file that contains `<|im_end|>` cannot end a turn, nor one
        that contains `</tool_response>` a tool's result."""
        return [number for encoding, _, _ in self._encoded(text) for number in encoding.ids]

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """As `encode`; and how many characters of `text` there are up to the end of each token."""
        ids: list[int] = []
        ends: list[int] = []
        start = 0
        for encoding, length, is_word in self._encoded(text):
            ids += encoding.ids
            start += length
            if is_word:
                ends += [start] * len(encoding.ids)
            else:
                ends += [start - length + end for _, end in encoding.offsets]
        return ids, ends

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens included."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def thinks_after(self, prompt: Sequence[int]) -> bool:
        """Whether what is generated after `prompt` begins inside the thinking."""
        start = len(prompt)
        while start and prompt[start - 1] != self.eos_id:
            start -= 1
        said = self.decode(prompt[start:])
        return said.rfind("<think>") > said.rfind("</think>")

    def opens_answer(self, ids: Sequence[int]) -> bool:
        """Whether they end as a prompt does, with nothing of an answer behind it."""
        start = len(ids)
        while start and ids[start - 1] != self.eos_id:
            start -= 1
        _, header, said = self.decode(ids[start:]).rpartition(self.header)
        return bool(header) and not re.sub("</?think>", "", said).strip()

    def opening(
        self,
        messages: Sequence[Message],
        *,
        system: str | None,
        tools: Sequence[ToolSpec],
        options: Options = _NONE,
    ) -> list[int]:
        """Ids of a session's first prompt: system block, tools, messages, generation prompt."""
        text = self.rendered(messages, system=system, tools=tools, options=options, prompt=True)
        return self.encode(text)

    def delta(
        self, messages: Sequence[Message], *, ended: bool, options: Options = _NONE
    ) -> list[int]:
        """Ids that continue a state whose last turn was the assistant's, as it is.

        As `continuing`, which says more.
        """
        return self.encode(self.continuing(messages, ended=ended, options=options))

    def continuing(
        self, messages: Sequence[Message], *, ended: bool, options: Options = _NONE
    ) -> str:
        """What `delta` has the ids of.

        ended: whether the turn before ends with the eos token; if not (it hit a length limit), the
        text closes it first.
        Raises TemplateRewrites if this template does not end messages with the eos token: then it
        cannot be told what it appends.
        """
        before = self._render(_STAND_IN, (), options, prompt=False)
        after = self._render([*_STAND_IN, *self._plain(messages)], (), options, prompt=True)
        ends = before.count(self.eos_text)
        if ends < 1 or after.count(self.eos_text) < ends:
            raise TemplateRewrites(
                f"the chat template does not end messages with {self.eos_text}, so what it appends "
                "cannot be told from what was there; the session is unchanged."
            )
        text = after.split(self.eos_text, ends)[-1]
        return text if ended else self.eos_text + text

    def rendered(
        self,
        messages: Sequence[Message],
        *,
        system: str | None,
        tools: Sequence[ToolSpec],
        options: Options = _NONE,
        prompt: bool,
    ) -> str:
        """A whole conversation as the template shows it, for `encode`.

        prompt: whether it ends where the next answer begins
        """
        head = [] if system is None else [{"role": "system", "content": self._mark(system)}]
        return self._render([*head, *self._plain(messages)], tools, options, prompt=prompt)

    def marked(self, ids: Sequence[int]) -> str:
        """Text of `ids` as `rendered` writes it: `encode` gives control tokens where they are, and
        none where a message has their words."""
        parts: list[str] = []
        start = 0
        for place, token in enumerate(ids):
            if token in self._control:
                parts += [self._mark(self.decode(ids[start:place])), self._control[token]]
                start = place + 1
        return "".join(parts) + self._mark(self.decode(ids[start:]))

    def unmarked(self, text: str) -> str:
        """Rendered text as it reads."""
        parts = _MARKED.split(text)
        parts[1::2] = [self._reserved[ord(part) - _FIRST] for part in parts[1::2]]
        return "".join(parts)

    def _encoded(self, text: str) -> Iterator[tuple[Encoding, int, bool]]:
        """Parts of rendered text, of how many of its characters each is, and whether that is the
        mark of a reserved word."""
        for position, part in enumerate(_MARKED.split(text)):
            if position % 2 == 0:
                yield self.tokenizer.encode(part, add_special_tokens=False), len(part), False
            else:
                word = self._reserved[ord(part) - _FIRST]
                length = len(_OPEN) + len(part) + len(_CLOSE)
                yield self._literal.encode(word, add_special_tokens=False), length, True

    def _calls(self) -> str:
        called = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        try:
            shown = self._render([_STAND_IN[0], called], (), _NONE, prompt=False)
        except BadRequest:  # a template that knows no calls
            return QWEN3_CODER
        return HERMES if _HERMES_CALL.search(shown) else QWEN3_CODER

    def _plain(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if not messages:
            raise BadRequest("a turn needs at least one message.")
        require_appendable(messages)
        return [self._plain_one(message) for message in messages]

    def _plain_one(self, message: Message) -> dict[str, Any]:
        plain: dict[str, Any] = {"role": message.role, "content": self._mark(message.content)}
        if message.role == "assistant":  # templates find thinking in what it has said, by its tags
            for tag in ("<think>", "</think>"):
                plain["content"] = plain["content"].replace(self._marks.get(tag, tag), tag)
        if message.reasoning:
            plain["reasoning_content"] = self._mark(message.reasoning)
        if message.tool_calls:
            plain["tool_calls"] = [
                {"type": "function", "function": self._marked(call.model_dump(mode="json"))}
                for call in message.tool_calls
            ]
        return plain

    def _marked(self, value: Any) -> Any:
        """`value` with every text in it marked."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, dict):
            return {self._mark(key): self._marked(item) for key, item in value.items()}
        return [self._marked(item) for item in value] if isinstance(value, list) else value

    def _mark(self, content: str) -> str:
        """`content` with the words of control tokens replaced by marks that `encode` resolves."""
        return self._reserved_pattern.sub(lambda found: self._marks[found[0]], content)

    def _render(
        self, messages: Sequence[Any], tools: Sequence[ToolSpec], options: Options, *, prompt: bool
    ) -> str:
        declared = [
            {"type": "function", "function": self._marked(tool.model_dump(mode="json"))}
            for tool in tools
        ]
        return self.template.render(messages, declared, options, prompt=prompt)
