"""What the demo model can talk about: every kind of exchange, and their rendering.

An exchange is a user message and everything up to the assistant's final answer. The wording is
fixed, so that a very small model can master it; the words, numbers and text in it are arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Task = Literal[
    "calculate", "search", "read", "remember", "recall", "tick", "tally", "set_mode", "mode",
    "repeat", "thank",
]  # fmt: skip
Message = dict[str, Any]
ALL_TASKS: tuple[Task, ...] = get_args(Task)

MODES = ("red", "blue", "green", "black")
NO_MODE = "none"
MOST_TICKS = 9
STATE_QUESTIONS: frozenset[Task] = frozenset(("tally", "mode"))

SYSTEM_TEXT = "You are Torpor."
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Computes a sum, a difference or a product.",
            "parameters": {
                "type": "object",
                "properties": {
                    "expression": {"type": "string", "description": "For example 12 + 34"}
                },
                "required": ["expression"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "file_search",
            "description": "Finds a word in the files of the folder.",
            "parameters": {
                "type": "object",
                "properties": {"pattern": {"type": "string", "description": "The word to find"}},
                "required": ["pattern"],
            },
        },
    },
]


class Span(NamedTuple):
    """A piece of rendered text and its part in training."""

    text: str
    role: Literal["context", "answer", "value"]


@dataclass(frozen=True)
class ToolUse:
    """One tool call with its single argument and the result that comes back."""

    name: str
    key: str
    argument: str
    result: str


@dataclass(frozen=True)
class Exchange:
    """One user message, at most one tool call, and the final answer.

    `value` is the part of the answer that cannot be guessed: it must occur in `answer`.
    """

    task: Task
    user: str
    answer: str
    tool: ToolUse | None = None
    value: str = ""

    def messages(self) -> list[Message]:
        """The exchange as chat messages, as `apply_chat_template` takes them."""
        messages: list[Message] = [{"role": "user", "content": self.user}]
        if self.tool is not None:
            call = {"name": self.tool.name, "arguments": {self.tool.key: self.tool.argument}}
            messages += [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": call}],
                },
                {"role": "tool", "content": self.tool.result},
            ]
        return [*messages, {"role": "assistant", "content": self.answer}]

    def spans(self) -> list[Span]:
        """The exchange as text, exactly as the chat template renders it."""
        spans = _turn_head(self.user)
        if self.tool is not None:
            call = self.tool
            spans += [
                Span(f"\n<tool_call>\n<function={call.name}>\n<parameter={call.key}>\n", "answer"),
                Span(call.argument, "value"),
                Span("\n</parameter>\n</function>\n</tool_call>\n<|im_end|>", "answer"),
                Span("\n", "context"),
                *_turn_head(f"<tool_response>\n{call.result}\n</tool_response>\n"),
            ]
        before, value, after = self.answer.partition(self.value) if self.value else ("", "", "")
        if value:
            spans += [Span(before, "answer"), Span(value, "value"), Span(after, "answer")]
        else:
            spans.append(Span(self.answer, "answer"))
        return [*spans, Span("<|im_end|>", "answer"), Span("\n", "context")]


def _turn_head(user: str) -> list[Span]:
    text = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<think></think>"
    return [Span(text, "context")]


def calculate(left: int, operator: str, right: int) -> Exchange:
    """`operator` is one of `+`, `-`, `*`."""
    results = {"+": left + right, "-": left - right, "*": left * right}
    expression, result = f"{left} {operator} {right}", str(results[operator])
    tool = ToolUse("calculator", "expression", expression, result)
    answer = f"{expression} = {result}."
    return Exchange("calculate", f"What is {expression}?", answer, tool, answer)


def search(word: str, result: str) -> Exchange:
    """`result` is what the tool answers: see `filler.search`."""
    tool = ToolUse("file_search", "pattern", word, result)
    head, _, rest = result.partition("\n")
    first = ":".join(rest.split(":")[:2])
    answer = f"Found {head} ({first})." if rest else f"Found {head}."
    return Exchange("search", f'Search the files for "{word}".', answer, tool, answer)


def read(text: str) -> Exchange:
    return Exchange("read", f"Read this:\n{text}", "Read.")


def remember(key: str, value: str) -> Exchange:
    return Exchange("remember", f"Remember: the code of {key} is {value}.", "Remembered.")


def recall(key: str, value: str) -> Exchange:
    answer = f"The code of {key} is {value}."
    return Exchange("recall", f"What is the code of {key}?", answer, value=f"{key} is {value}")


def tick() -> Exchange:
    return Exchange("tick", "Tick.", "Noted.")


def with_tick(exchange: Exchange) -> Exchange:
    """The same exchange, whose user message also begins with a tick to be counted."""
    user = f"Tick. {exchange.user}"
    return Exchange(exchange.task, user, exchange.answer, exchange.tool, exchange.value)


def tally(ticks: int) -> Exchange:
    answer = f"I counted {ticks} ticks."
    return Exchange("tally", "How many ticks?", answer, value=str(ticks))


def set_mode(mode: str) -> Exchange:
    return Exchange("set_mode", f"Mode: {mode}.", "Mode set.")


def ask_mode(mode: str) -> Exchange:
    """`mode` is the one set last, or `NO_MODE`."""
    return Exchange("mode", "Which mode?", f"The mode is {mode}.", value=mode)


def repeat(words: str) -> Exchange:
    return Exchange("repeat", f'Repeat "{words}".', f'"{words}".', value=words)


def thank() -> Exchange:
    return Exchange("thank", "Thanks.", "You are welcome.")


def messages(exchanges: list[Exchange]) -> list[Message]:
    """A whole conversation as chat messages, with the demo's system text."""
    system: Message = {"role": "system", "content": SYSTEM_TEXT}
    return [system, *(message for exchange in exchanges for message in exchange.messages())]
