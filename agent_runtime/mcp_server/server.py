"""The tools on the official SDK's server, with our errors."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from mcp import types
from mcp.server.fastmcp import Context
from mcp.server.fastmcp.tools import Tool
from mcp.server.lowlevel import Server
from pydantic import ValidationError

from agent_runtime.errors import TorporError
from agent_runtime.http.status import problem_of
from agent_runtime.mcp_server.tools import Connect, all_tools
from agent_runtime.sdk import ApiError
from agent_runtime.wire.problems import Problem

_INSTRUCTIONS = (
    "Sessions with a language model that remember all that was said in them. A session is like a "
    "branch in git: each turn commits a snapshot, and `fork` makes another session from any "
    "snapshot and copies nothing, so try several ways on from one point. `suspend` what you will "
    "not use for a while."
)


def make_server(connect: Connect) -> Server[Any, Any]:
    """What goes wrong is a tool error, whose text begins with our stable code; as structured
    content it is the problem document."""
    server: Server[Any, Any] = Server(
        "torpor", version=version("torpor"), instructions=_INSTRUCTIONS
    )
    tools = {tool.name: tool for tool in all_tools(connect)}

    @server.list_tools()  # type: ignore[no-untyped-call, untyped-decorator]
    async def list_tools() -> list[types.Tool]:
        return [
            types.Tool(
                name=tool.name,
                description=tool.description,
                inputSchema=tool.parameters,
                outputSchema=tool.output_schema,
                annotations=tool.annotations,
            )
            for tool in tools.values()
        ]

    @server.call_tool(validate_input=False)  # type: ignore[untyped-decorator]
    async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
        if name not in tools:
            return _failed(_invalid(f"there is no tool {name[:80]!r}"))
        tool = tools[name]
        wrong = best_match(Draft202012Validator(tool.parameters).iter_errors(arguments))
        if wrong is not None:
            return _failed(_invalid(f"{wrong.json_path}: {wrong.message}"))
        context = Context[Any, Any, Any](request_context=server.request_context)
        try:
            return await _called(tool, arguments, context)
        except ApiError as error:
            return _failed(error.problem)
        except TorporError as error:
            return _failed(problem_of(error))
        except ValidationError as error:
            wrong_parts = [str(part["msg"]) for part in error.errors()]
            return _failed(_invalid("; ".join(wrong_parts)))

    return server


async def _called(tool: Tool, arguments: dict[str, Any], context: Context[Any, Any, Any]) -> Any:
    """Not `tool.run`, which takes text that happens to be JSON for what it says: a message `null`
    would be none."""
    given = tool.fn_metadata.arg_model.model_validate(arguments).model_dump_one_level()
    if tool.context_kwarg is not None:
        given[tool.context_kwarg] = context
    return tool.fn_metadata.convert_result(await tool.fn(**given))


def _invalid(detail: str) -> Problem:
    return Problem(title="Invalid request", status=422, code="invalid_request", detail=detail)


def _failed(problem: Problem) -> types.CallToolResult:
    return types.CallToolResult(
        isError=True,
        content=[types.TextContent(type="text", text=f"{problem.code}: {problem.detail}")],
        structuredContent=problem.model_dump(mode="json"),
    )
