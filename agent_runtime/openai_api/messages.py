"""What is said, between OpenAI's forms and the runtime's: shared by chat completions and responses.

OpenAI ties results to calls by ids; the model knows them by their order.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from agent_runtime.errors import BadRequest, TextOnly, WrongMessage
from agent_runtime.frameworks import Said, in_call_order, typed_arguments, with_one_system_text
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import ConversationRequest, TurnResult
from tools.calls import ToolCall
from tools.canonical import loads
from tools.define import ToolSpec

_NOTHING_DONE = "Nothing was generated."
_OURS = (
    "parent", "snapshot", "boundary", "engine", "failed_over", "problems", "stopped_by", "durable",
    "not_durable_because", "kept", "caught_up", "bytes_written", "mtp_accept_length", "replayed",
)  # fmt: skip


def text_of(content: object, param: str, *, kinds: Sequence[str] = ("text",)) -> str:
    """The text of a message's content, which may come in parts.

    kinds: of parts that are text here. Raises TextOnly, BadRequest.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise BadRequest(f"content is a text or a list of parts. {_NOTHING_DONE}", param=param)
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind not in kinds:
            raise TextOnly(
                f"content of type {kind!r} cannot be sent: the models read text. {_NOTHING_DONE}",
                param=f"{param}[{place}]",
            )
        if not isinstance(text, str):
            raise BadRequest(
                f"a part of type {kind!r} has its text as `text`. {_NOTHING_DONE}",
                param=f"{param}[{place}].text",
            )
        texts.append(text)
    return "".join(texts)


def call_of(name: str, arguments: str, param: str) -> ToolCall:
    """A call that an assistant's message has. arguments: JSON text. Raises WrongMessage."""
    try:
        read = loads(arguments or "{}")
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise WrongMessage(
            f"the arguments of {name} are not the JSON of an object. {_NOTHING_DONE}", param=param
        )
    return ToolCall(name=name, arguments=read)


def conversation(said: Sequence[Said], param: str) -> list[Message]:
    """The messages as the runtime takes them: one system text, results in the order of their calls.

    param: what the request calls the list. Raises WrongMessage for a result that answers no call,
    and for a call that is not answered before something else is said: the model would take one
    result for another's.
    """
    waiting: list[str | None] = []
    answered: set[str | None] = set()
    for place, one in enumerate(said):
        if one.message.role == "tool":
            if one.answers not in waiting or one.answers in answered:
                why = "was answered before" if one.answers in answered else "is none of the calls"
                raise WrongMessage(
                    f"call {one.answers!r} {why} in the message of the assistant that comes before "
                    f"this result. {_NOTHING_DONE}",
                    param=f"{param}[{place}]",
                )
            answered.add(one.answers)
            continue
        _require_answers(waiting, answered, f"{param}[{place}]")
        waiting, answered = list(one.calls), set()
    if waiting and answered:  # a conversation may end with calls, which is refused elsewhere
        _require_answers(waiting, answered, param)
    return with_one_system_text(in_call_order(said))


def _require_answers(waiting: Sequence[str | None], answered: set[str | None], param: str) -> None:
    missing = [call for call in waiting if call not in answered]
    if missing:
        raise WrongMessage(
            f"the results of calls {', '.join(map(repr, missing))} are missing before this. "
            f"{_NOTHING_DONE}",
            param=param,
        )


def asked_of(messages: Sequence[Message], **options: Any) -> ConversationRequest:
    """options: of the request. Raises BadRequest for ones that exclude each other."""
    try:
        return ConversationRequest(messages=list(messages), **options)
    except ValidationError as error:
        why = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        of_tools = all(one["loc"][:1] == ("tools",) for one in error.errors())
        raise BadRequest(f"{why}. {_NOTHING_DONE}", param="tools" if of_tools else None) from None


class Ids:
    """Ids of one answer. With a key of idempotency they are the same whenever it is given again."""

    def __init__(self, key: str | None = None) -> None:
        self._seed = uuid.uuid4().hex if key is None else hashlib.sha256(key.encode()).hexdigest()

    def of(self, prefix: str, *places: int) -> str:
        """As in `call_…`; places: tell apart what has the same prefix."""
        text = f"{prefix}:{self._seed}:{places}"
        return prefix + hashlib.sha256(text.encode()).hexdigest()[:32]


def arguments_of(call: ToolCall, tools: Sequence[ToolSpec]) -> str:
    """JSON text, with values of the types that the tool's schema asks for."""
    return json.dumps(typed_arguments(call, tools), ensure_ascii=False)


def finish_reason_of(result: TurnResult) -> str:
    if result.tool_calls and result.finish_reason == "stop":
        return "tool_calls"
    return result.finish_reason


def ours(result: TurnResult) -> dict[str, Any]:
    """What of an answer has no place in OpenAI's forms; it goes under the name `torpor`."""
    usage = result.usage
    return {
        "session": result.session_id,
        **result.model_dump(mode="json", include=set(_OURS)),
        "prompt_tokens": usage.prompt_tokens,
        "reused_tokens": usage.reused_tokens,
        "recomputed_tokens": usage.recomputed_tokens,
        "recompute_reason": usage.recompute_reason,
    }
