"""From messages to token ids, as deltas that continue what the state already holds.

A session's history is token ids. Nothing in it is ever rendered or tokenized again: new
messages are rendered behind a stand-in for the last assistant turn, with the checkpoint's own
chat template, and only what the template appends is tokenized. Special tokens delimit every
message, so tokenizing the delta alone gives the ids that tokenizing the whole text would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from agent_runtime.errors import BadRequest, SetupError, TemplateRewrites
from tools.calls import ToolCall
from tools.define import ToolSpec


class Message(BaseModel):
    """One message from the client's side: `user` text, a `tool` result, or what an `assistant`
    said elsewhere, which becomes a part of the history as it stands; its `reasoning` as far as the
    checkpoint's template shows the model what it thought before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


# Private-use characters around a third that says which reserved word stood there.
_OPEN, _CLOSE, _FIRST = "\ue000", "\ue001", 0xE100
_MARKED = re.compile(f"{_OPEN}(.){_CLOSE}", re.DOTALL)

_STAND_IN = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


class ChatFormat:
    """The tokenizer and chat template of one checkpoint directory.

    Raises SetupError when `tokenizer.json` or the template is missing or malformed.
    """

    def __init__(self, model_dir: Path) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
            self._literal = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
            config = json.loads((model_dir / "tokenizer_config.json").read_text())
            template = (model_dir / "chat_template.jinja").read_text()
        except Exception as error:  # tokenizers raises bare Exception
            raise SetupError(
                f"{model_dir} has no usable tokenizer and chat template: {error}. "
                "Point --model at a complete checkpoint, or make the demo model: make model."
            ) from error
        self._eos_text: str = config["eos_token"]
        eos = self.tokenizer.token_to_id(self._eos_text)
        if eos is None:
            raise SetupError(f"{model_dir}: eos_token {self._eos_text!r} is not in the tokenizer.")
        self.eos_id: int = eos
        self._literal.encode_special_tokens = True
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._reserved = [*(token.content for token in added if token.special), _OPEN]
        self._reserved_pattern = re.compile("|".join(map(re.escape, self._reserved)))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        self._template = environment.from_string(template)
        prompt = self._render([{"role": "user", "content": "u"}], (), prompt=True)
        self.opens_thinking: bool = prompt.rstrip().endswith("<think>")
        """Whether an answer begins inside the model's thinking."""
        asked = self._render([{"role": "user", "content": "u"}], (), prompt=False)
        self._opening = self.encode(prompt.removeprefix(asked))

    def encode(self, text: str) -> list[int]:
        """Ids of rendered text. Control tokens are what the template wrote, never what a message
        says: a file that contains `<|im_end|>` cannot end a turn."""
        ids: list[int] = []
        for position, part in enumerate(_MARKED.split(text)):
            is_literal = position % 2 == 1
            tokenizer = self._literal if is_literal else self.tokenizer
            part = self._reserved[ord(part) - _FIRST] if is_literal else part
            ids += tokenizer.encode(part, add_special_tokens=False).ids
        return ids

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
        return list(ids[-len(self._opening) :]) == self._opening

    def opening(
        self, messages: Sequence[Message], *, system: str | None, tools: Sequence[ToolSpec]
    ) -> list[int]:
        """Ids of a session's first prompt: system block, tools, messages, generation prompt."""
        head = [] if system is None else [{"role": "system", "content": self._mark(system)}]
        return self.encode(self._render([*head, *self._plain(messages)], tools, prompt=True))

    def delta(self, messages: Sequence[Message], *, ended: bool) -> list[int]:
        """Ids that continue a state whose last turn was the assistant's.

        ended: whether that turn ends with the eos token; if not (it hit a length limit), the
        delta closes it first.
        Raises TemplateRewrites if this template would change earlier text because of the new
        messages: then the state cannot be continued by appending.
        """
        before = self._render(_STAND_IN, (), prompt=False)
        after = self._render([*_STAND_IN, *self._plain(messages)], (), prompt=True)
        cut = before.rfind(self._eos_text)
        if not after.startswith(before) or cut < 0:
            raise TemplateRewrites(
                "the chat template rewrites earlier messages when these are appended; "
                "the session is unchanged. Fork from an earlier snapshot instead."
            )
        between = before[cut + len(self._eos_text) :]
        text = between + after[len(before) :]
        return self.encode(text if ended else self._eos_text + text)

    def _plain(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if not messages:
            raise BadRequest("a turn needs at least one message.")
        for message in messages:
            if message.role not in ("user", "tool", "assistant"):
                raise BadRequest(
                    f"role {message.role!r} cannot be appended; a turn takes user, tool and "
                    "assistant messages."
                )
            if message.tool_calls and message.role != "assistant":
                raise BadRequest(f"a {message.role} message cannot call tools.")
            if message.reasoning and message.role != "assistant":
                raise BadRequest(f"a {message.role} message has no reasoning.")
        return [self._plain_one(message) for message in messages]

    def _plain_one(self, message: Message) -> dict[str, Any]:
        plain: dict[str, Any] = {"role": message.role, "content": self._mark(message.content)}
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
        return self._reserved_pattern.sub(
            lambda found: f"{_OPEN}{chr(_FIRST + self._reserved.index(found[0]))}{_CLOSE}", content
        )

    def _render(self, messages: Sequence[Any], tools: Sequence[ToolSpec], *, prompt: bool) -> str:
        declared = [
            {"type": "function", "function": tool.model_dump(mode="json")} for tool in tools
        ]
        try:
            return self._template.render(
                messages=list(messages), tools=declared or None, add_generation_prompt=prompt
            )
        except jinja2.TemplateError as error:
            raise BadRequest(f"the chat template refused the messages: {error}") from error


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
