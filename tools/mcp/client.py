"""What a session of ours has from one MCP server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp import ClientSession, McpError
from mcp.types import PaginatedRequestParams

from tools.context import Context, Progress
from tools.define import Tool, ToolSpec, define, define_by_schema
from tools.effects import Effect
from tools.errors import BadDefinition, McpInterrupted, McpUnavailable, ToolFailed
from tools.mcp.connection import Connection, Health, Patience
from tools.mcp.content import part_of_resource, parts_of
from tools.mcp.servers import HttpServer, StdioServer
from tools.results import Ending, ToolResult

_MOST_PAGES = 50
_MOST_DESCRIPTION = 2000  # characters; every prompt pays for them
_MOST_NAME = 64
_SPARE = 5.0  # seconds for a connection to say why, before the tool gives it up


@dataclass(frozen=True)
class Resource:
    """Something to read, by `uri`."""

    uri: str
    name: str
    description: str
    media_type: str


@dataclass(frozen=True)
class Prompt:
    """A text with holes. arguments: name -> whether it must be given"""

    name: str
    description: str
    arguments: dict[str, bool]


@dataclass(frozen=True)
class PromptMessage:
    """role: user or assistant"""

    role: str
    text: str


class McpClient:
    """An async context manager; it connects when it is entered, and again whenever it must.

    name:       of the server, in front of the names of its tools
    trusted:    believe what the server says of its tools' effects; else each is effectful
    max_chars:  of a result; a longer one is cut
    most_bytes: of a file in a result; a larger one is left out
    Entering raises McpUnavailable, McpUnauthorized.
    """

    def __init__(
        self,
        name: str,
        server: StdioServer | HttpServer,
        *,
        patience: Patience | None = None,
        trusted: bool = False,
        max_chars: int = 20_000,
        most_bytes: int = 4 * 2**20,
    ) -> None:
        self.name = name
        self.refused: dict[str, str] = {}
        self._patience = patience or Patience()
        self._trusted = trusted
        self._max_chars = max_chars
        self._most_bytes = most_bytes
        self._tools: list[Tool] | None = None
        self._changes = self._listed_after = 0
        self._connection = Connection(name, server, self._patience, self._heard)

    async def __aenter__(self) -> McpClient:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._connection.__aexit__(*error)

    async def health(self) -> Health:
        """How the connection is, with a ping."""
        return await self._connection.health()

    async def tools(self) -> list[Tool]:
        """The server's tools as ours, with their schemas; listed anew after it said they changed.

        `refused` then has the names of those left out, with the reason.
        """
        if self._tools is None or self._listed_after != self._changes:
            changes = self._changes  # more may be told while they are listed
            listed = await self._listed("tools", lambda session: session.list_tools)
            self.refused = {}
            found: dict[str, Tool] = {}
            for told in listed:
                try:
                    tool = self._tool(told)
                except BadDefinition as error:
                    self.refused[str(told.get("name"))] = str(error)
                    continue
                if tool.spec.name in found:
                    self.refused[str(told["name"])] = f"another tool is named {tool.spec.name}"
                    continue
                found[tool.spec.name] = tool
            self._tools, self._listed_after = list(found.values()), changes
        return list(self._tools)

    async def resources(self) -> list[Resource]:
        """What can be read; none if the server has no resources."""
        listed = await self._listed("resources", lambda session: session.list_resources)
        return [
            Resource(
                str(told["uri"]),
                str(told.get("name", "")),
                str(told.get("description", ""))[:_MOST_DESCRIPTION],
                str(told.get("mimeType", "")),
            )
            for told in listed
        ]

    async def read_resource(self, uri: str) -> ToolResult:
        """All contents of one resource. A server that refuses is a result with an error."""

        async def ask(session: ClientSession) -> Any:
            return await session.read_resource(uri)  # type: ignore[arg-type]  # 2.x takes strings

        try:
            answer = _wire(await self._connection.request(ask, self._patience.call))
        except McpError as error:
            return ToolResult.failed(f"{self.name} refused: {error}")
        except McpInterrupted as error:
            return ToolResult.failed(f"{error}; reading it again is safe")
        contents = answer.get("contents") or []
        parts = tuple(part_of_resource(one, self._most_bytes) for one in contents)
        return ToolResult(parts=parts).cut(self._max_chars, "Read another resource that says less.")

    def resource_tool(self) -> Tool:
        """A tool with which the model reads resources itself."""

        async def read(uri: str) -> ToolResult:
            """Reads a resource of a server.

            Args:
                uri: The address of the resource
            """
            return await self.read_resource(uri)

        return define(
            read,
            name=self._named("read_resource"),
            effect=Effect.PURE,
            timeout=self._patience.connect + self._patience.call + _SPARE,
            max_chars=self._max_chars,
        )

    async def prompts(self) -> list[Prompt]:
        """The server's prompts; none if it has none."""
        listed = await self._listed("prompts", lambda session: session.list_prompts)
        return [
            Prompt(
                str(told["name"]),
                str(told.get("description", ""))[:_MOST_DESCRIPTION],
                {one["name"]: bool(one.get("required")) for one in told.get("arguments") or []},
            )
            for told in listed
        ]

    async def prompt(self, name: str, arguments: dict[str, str]) -> list[PromptMessage]:
        """A prompt with its holes filled. Raises ToolFailed if the server refuses."""

        async def ask(session: ClientSession) -> Any:
            return await session.get_prompt(name, arguments)

        try:
            answer = _wire(await self._connection.request(ask, self._patience.answer))
        except McpError as error:
            raise ToolFailed(f"{self.name} refused: {error}") from error
        return [
            PromptMessage(
                str(one["role"]),
                ToolResult(parts=parts_of({"content": [one["content"]]}, self._most_bytes)).text,
            )
            for one in answer["messages"]
        ]

    def _heard(self, method: str) -> None:
        if method == "notifications/tools/list_changed":
            self._changes += 1

    async def _listed(
        self, what: str, method: Callable[[ClientSession], Callable[..., Any]]
    ) -> list[dict[str, Any]]:
        if (await self._connection.capabilities()).get(what) is None:
            return []
        found: list[dict[str, Any]] = []
        params: PaginatedRequestParams | None = None
        for _ in range(_MOST_PAGES):

            async def ask(
                session: ClientSession, params: PaginatedRequestParams | None = params
            ) -> Any:
                return await method(session)(params=params)

            page = _wire(await self._connection.request(ask, self._patience.answer))
            found += page.get(what) or []
            if not page.get("nextCursor"):
                return found
            params = PaginatedRequestParams(cursor=page["nextCursor"])
        raise McpUnavailable(
            f"the MCP server {self.name} lists {what} on more than {_MOST_PAGES} pages."
        )

    def _tool(self, told: dict[str, Any]) -> Tool:
        name = str(told["name"])
        effect = self._effect(told.get("annotations") or {})

        async def call(arguments: dict[str, Any], context: Context) -> ToolResult:
            return await self._called(name, arguments, context, effect)

        description = str(told.get("description") or told.get("title") or name)
        return define_by_schema(
            ToolSpec(
                name=self._named(name),
                description=description[:_MOST_DESCRIPTION],
                parameters=told["inputSchema"],
            ),
            call,
            effect=effect,
            timeout=self._patience.connect + self._patience.call + _SPARE,
            max_chars=self._max_chars,
            attempts=1 if effect is Effect.EFFECTFUL else 2,
        )

    def _effect(self, annotations: dict[str, Any]) -> Effect:
        if self._trusted and annotations.get("readOnlyHint"):
            return Effect.PURE
        if self._trusted and annotations.get("idempotentHint"):
            return Effect.IDEMPOTENT
        return Effect.EFFECTFUL

    def _named(self, tool: str) -> str:
        """A name that models and their servers take, which the server's name begins."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.name}_{tool}")
        if len(name) <= _MOST_NAME:
            return name
        return f"{name[: _MOST_NAME - 9]}_{hashlib.sha256(tool.encode()).hexdigest()[:8]}"

    async def _called(
        self, name: str, arguments: dict[str, Any], context: Context, effect: Effect
    ) -> ToolResult:
        async def heard(progress: float, total: float | None, message: str | None) -> None:
            context.on_progress(Progress(message or "", progress, total))

        async def ask(session: ClientSession) -> Any:
            return await session.call_tool(name, arguments, progress_callback=heard)

        try:
            answer = _wire(await self._connection.request(ask, self._patience.call))
        except McpError as error:
            return ToolResult.failed(f"{self.name} refused: {error}")
        except RuntimeError as error:  # the SDK: the answer is not what the tool's schema promises
            return ToolResult.failed(str(error))
        except McpUnavailable as error:
            return ToolResult.failed(str(error))
        except McpInterrupted as error:
            if effect is not Effect.EFFECTFUL:
                raise  # then it is called again
            why = f"{error} after {name} was called: whether it did its work is not known. "
            return ToolResult.failed(f"{why}Find out before you call it again.", Ending.UNKNOWN)
        ending = Ending.FAILED if answer.get("isError") else Ending.DONE
        return ToolResult(parts=parts_of(answer, self._most_bytes), ending=ending)


def _wire(answer: Any) -> dict[str, Any]:
    """An answer as JSON has it, whose names are the same in all versions of the SDK."""
    dumped: dict[str, Any] = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped
