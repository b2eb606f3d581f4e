"""ChatTorpor: the runtime as a LangChain chat model.

    model = ChatTorpor(url="http://127.0.0.1:8700")
    agent = create_agent(model, [search])

LangChain sends the whole conversation each time. Without `session` it goes to the runtime's
conversations: what is known of it is not computed again, and an edit or a retry is a fork. With
`session` the conversation is that session's: what follows its last answer is one turn of it, in a
fork if the session has moved on since.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel, agenerate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import (
    convert_to_json_schema,
    convert_to_openai_tool,
)
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import ConfigDict, SecretStr

from agent_runtime.errors import BadRequest, ToolsDiffer, WrongMessage
from agent_runtime.frameworks import shown
from agent_runtime.kept_turns import KeptTurn, followed, require_taken
from agent_runtime.langchain.messages import Following, answer_of, following_of, said, spec_of
from agent_runtime.langchain.retrying import asked_again
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.sdk.loops import LoopThread
from agent_runtime.wire.constraints import NamedTool
from agent_runtime.wire.events import TurnEvent
from agent_runtime.wire.messages import Effort, HistoryPolicy, OptionValue
from agent_runtime.wire.turns import Durability, TurnResult
from tools.define import ToolSpec


class ChatTorpor(BaseChatModel):
    """A chat model that is served by a Torpor runtime.

    Options of a call, besides `stop`, are fields of `TurnRequest`: `max_tokens`, `json_schema`,
    `regex`, `durability` and so on.
    """

    model_config = ConfigDict(extra="forbid")

    url: str = "http://127.0.0.1:8700"
    api_key: SecretStr | None = None
    session: str | None = None
    """A session that the conversation is; it has its own system text and tools."""
    model: str = "torpor"
    """What traces call it. The runtime has one model, and this chooses none."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    durability: Durability | None = None
    effort: Effort | None = None
    """How much the model is to think."""
    thinking_tokens: int | None = None
    template: dict[str, OptionValue] | None = None
    """Options of the model's chat template."""
    history: HistoryPolicy | None = None
    """Of conversations without `session`, which has its own."""
    timeout: float = 600.0
    """Seconds."""
    max_retries: int = 2
    """How often an answer is asked for again that could not be had, or broke off. It is generated
    once: every attempt has the same idempotency key, `idempotency_key` among a call's options or
    one of its own."""
    streaming: bool = False
    """Whether `invoke` streams too, for callbacks that want every piece."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """tool_choice: `auto`, `none`, `any` or `required`, the name of a tool, or true for any;
        calls that are forced fit the tools' schemas token by token.
        strict: so do those that the model makes of itself.
        """
        given: dict[str, Any] = {"strict_calls": strict}
        given |= {"tool_choice": _choice(tool_choice), "parallel_tool_calls": parallel_tool_calls}
        options = {name: value for name, value in given.items() if value is not None}
        return self.bind(
            tools=[convert_to_openai_tool(tool) for tool in tools], **options, **kwargs
        )

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """method: `json_schema`, the answer is held to the schema token by token; `json_mode`, it
        is held to JSON of any kind; `function_calling`, it is the call of a tool.
        strict: accepted for LangChain's sake; an answer is never held to less.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if method not in ("json_schema", "json_mode"):
            raise BadRequest(f"there is no structured output by {method!r}.")
        held_to = {"type": "object"}
        if method == "json_schema":
            held_to = convert_to_json_schema(schema)
        model = self.bind(
            json_schema=held_to,
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
            **kwargs,
        )
        parser: BaseOutputParser[Any] = JsonOutputParser()
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(
            parsed=lambda found: parser.invoke(found["raw"]), parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with LoopThread() as loop:
            return loop.run(self._agenerate(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._chunks(messages, stop, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with LoopThread() as loop:
            yield from loop.each(self._chunks(messages, stop, kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with contextlib.aclosing(self._chunks(messages, stop, kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    @property
    def _llm_type(self) -> str:
        return "torpor"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"url": self.url, "session": self.session, **self._settings()}

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            text_inputs=True,
            text_outputs=True,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
        )

    def _settings(self) -> dict[str, Any]:
        named = (
            "temperature", "top_p", "max_tokens", "seed", "stop", "durability", "effort",
            "thinking_tokens", "template", "history",
        )  # fmt: skip
        settings = {name: getattr(self, name) for name in named}
        return {name: value for name, value in settings.items() if value is not None}

    async def _chunks(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncGenerator[ChatGenerationChunk]:
        tools = [spec_of(tool) for tool in kwargs.pop("tools", ())]
        options = {**self._settings(), **_understood(kwargs)}
        if stop is not None:
            options["stop"] = stop
        once = options.pop("idempotency_key", None) or f"langchain-{secrets.token_hex(16)}"
        key = None if self.api_key is None else self.api_key.get_secret_value()
        following = Following()
        async with Torpor(self.url, api_key=key, timeout=self.timeout) as torpor:

            def ask() -> AsyncGenerator[str | TurnResult]:
                return shown(self._events(torpor, messages, tools, options, once, following))

            pieces = asked_again(ask, retries=self.max_retries)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, TurnResult):
                        last = answer_of(piece, following, tools=tools, model=self.model)
                        yield ChatGenerationChunk(message=last)
                    else:
                        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))

    async def _events(
        self,
        torpor: Torpor,
        messages: Sequence[BaseMessage],
        tools: Sequence[ToolSpec],
        options: dict[str, Any],
        once: str,
        following: Following,
    ) -> AsyncGenerator[TurnEvent]:
        """once: idempotency key; following: is told how the next turn finds what this one kept"""
        if self.session is None:
            events = torpor.converse_stream(
                said(messages), tools=tools, idempotency_key=once, **options
            )
        else:
            events = self._in_session(torpor, messages, tools, options, once, following)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _in_session(
        self,
        torpor: Torpor,
        messages: Sequence[BaseMessage],
        tools: Sequence[ToolSpec],
        options: dict[str, Any],
        once: str,
        following: Following,
    ) -> AsyncGenerator[TurnEvent]:
        if "history" in options:
            raise BadRequest(
                f"session {self.session} has its own way to deal with its history, given when it "
                "was created. Nothing was generated. Leave `history` out."
            )
        session, place, new = self._place(messages)
        head, kept = place.head, place.kept
        if head is None and tools:
            await _require_tools(torpor, session, tools)
        turn = said(new)
        if turn and turn[0].role == "system":
            raise WrongMessage(
                f"session {session} has its own system text, given when it was created; send none. "
                "Nothing was generated."
            )
        for attempt in range(2):
            head, waiting = await followed(torpor, session, head, kept)
            key = f"{once}-on-{head}" if kept else once
            asked = KeptTurn(
                key=key, messages=turn, options={"expected_head": head, **options}, said=[]
            )
            try:
                events = _taken(torpor, session, asked, Following(head, waiting), following)
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event
                return
            except ApiError as error:  # before the first event
                if error.code != "head_moved" or head is None or (waiting and attempt):
                    raise
            if not waiting:
                break
            # The turn itself has had them committed, and their snapshots are told after that.
        branch = await torpor.fork(session, snapshot=head, idempotency_key=f"{once}-fork")
        asked = asked.model_copy(update={"key": f"{once}-in-fork"})
        events = _taken(torpor, branch.id, asked, Following(head), following)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    def _place(
        self, messages: Sequence[BaseMessage]
    ) -> tuple[str, Following, Sequence[BaseMessage]]:
        """The session that the conversation is in, its head, and what it has not read yet."""
        assert self.session is not None, "a conversation without a session has no place"
        for place in range(len(messages) - 1, -1, -1):
            known = messages[place].response_metadata
            if isinstance(messages[place], AIMessage) and "session" in known:
                return known["session"], following_of(known), messages[place + 1 :]
        return self.session, Following(), messages


async def _taken(
    torpor: Torpor, session: str, asked: KeptTurn, before: Following, after: Following
) -> AsyncGenerator[TurnEvent]:
    """Take the turn that is `asked` for. before: what it follows; after: is told of it, if it is
    kept. Raises TurnLost."""
    events = torpor.stream(session, asked.messages, idempotency_key=asked.key, **asked.options)
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, TurnResult):
                require_taken(event)
                if event.kept:
                    now = asked.model_copy(update={"said": event.token_ids})
                    after.head, after.kept = before.head, [*before.kept, now]
            yield event


async def _require_tools(torpor: Torpor, session: str, tools: Sequence[ToolSpec]) -> None:
    has = set((await torpor.get(session)).tools)
    missing = [tool.name for tool in tools if tool.name not in has]
    if missing:
        raise ToolsDiffer(
            f"session {session} was created without {', '.join(missing)}; its tools are: "
            f"{', '.join(sorted(has)) or 'none'}. Nothing was generated. Create it with these "
            "tools, or leave the session out."
        )


def _choice(choice: dict[str, Any] | str | bool | None) -> str | NamedTool | None:
    if choice is None or choice is False:
        return None
    if choice is True or choice in ("any", "required"):
        return "required"
    if isinstance(choice, dict):
        return NamedTool(name=choice["function"]["name"])
    return choice if choice in ("auto", "none") else NamedTool(name=choice)


def _understood(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Options of a call, `response_format` as OpenAI has it among them."""
    options = dict(kwargs)
    asked = options.pop("response_format", None)
    match asked:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            options["json_schema"] = schema
        case {"type": "json_object"}:
            options["json_schema"] = {"type": "object"}
        case None | {"type": "text"}:
            pass
        case _:
            raise BadRequest(f"there is no response_format like {asked!r}.")
    return options
