"""Makes a tool of a typed Python function, or of a JSON schema and a function of a dict."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_type_hints

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema

from tools.arguments import ModelArguments, SchemaArguments
from tools.context import Context
from tools.docstrings import describe
from tools.effects import Effect, Scope
from tools.errors import BadDefinition
from tools.schemas import flaw_of
from tools.tool import Tool, ToolSpec, running

__all__ = ["Tool", "ToolSpec", "define", "define_by_schema"]

Function = Callable[..., Any]


def define(
    function: Function,
    *,
    name: str | None = None,
    effect: Effect = Effect.EFFECTFUL,
    scope: Scope = Scope.WORLD,
    dry_runs: bool = False,
    timeout: float = 30.0,
    max_chars: int = 20_000,
    rest: str = "",
    attempts: int = 1,
    at_once: int | None = None,
    workspace: Path | None = None,
) -> Tool:
    """Make a tool of `function`: sync, async, or an async generator.

    The docstring before its first section (`Args:`, `Raises:`, …) is what the model reads about
    the tool; the `Args:` section describes the parameters. A parameter of type `Context` is not
    shown to the model. What is returned becomes a ToolResult: see `ToolResult.of`. An async
    generator yields `Progress`, which is reported, and parts of the result.

    The options are fields of `Tool`; as a decorator with some: `@partial(define, timeout=5)`.
    Raises BadDefinition if the function has no docstring, a parameter without an annotation or
    not usable by name, or a type that has no schema; see also `Tool`.
    """
    spec, arguments, context_name = _signature(function, name or function.__name__)
    return Tool(
        spec,
        arguments,
        running(function, context_name),
        effect=effect,
        scope=scope,
        dry_runs=dry_runs,
        timeout=timeout,
        max_chars=max_chars,
        rest=rest,
        attempts=attempts,
        at_once=at_once,
        workspace=workspace,
    )


def define_by_schema(
    spec: ToolSpec, function: Callable[[dict[str, Any], Context], Awaitable[Any]], **options: Any
) -> Tool:
    """Make a tool that others describe, such as an MCP server: `function` takes the checked
    arguments. `options` as for `define`.

    Raises BadDefinition if `spec.parameters` is not a JSON schema of type object.
    """
    try:
        Draft202012Validator.check_schema(spec.parameters)
    except SchemaError as error:
        raise BadDefinition(f"{spec.name}: its schema is wrong: {error.message}") from error
    if (flaw := flaw_of(spec.parameters)) is not None:
        raise BadDefinition(f"{spec.name}: its schema is wrong: {flaw}.")
    if spec.parameters.get("type") != "object":
        raise BadDefinition(f"{spec.name}: its schema is not of type object.")

    async def run(given: dict[str, Any], context: Context) -> Any:
        return await function(given, context)

    return Tool(spec, SchemaArguments(spec.parameters), run, **options)


def _signature(function: Function, name: str) -> tuple[ToolSpec, ModelArguments, str | None]:
    """What the model sees, what is checked, and the parameter of type Context, if there is one."""
    description, described = describe(function.__doc__ or "")
    if not description:
        raise BadDefinition(f"{name} has no docstring: a model would not know what it does.")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise BadDefinition(f"{name}: an annotation cannot be resolved: {error}") from error
    if inspect.isgeneratorfunction(function):
        raise BadDefinition(f"{name} is a generator: make it an async one, or return the result.")
    fields: dict[str, Any] = {}
    context_name = None
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadDefinition(f"{name}: parameter {parameter} cannot be given by name.")
        if parameter.name not in hints:
            raise BadDefinition(f"{name}: parameter {parameter.name} has no annotation.")
        if hints[parameter.name] is Context:
            context_name = parameter.name
            continue
        field: dict[str, Any] = {"alias": parameter.name}
        if parameter.name in described:
            field["description"] = described[parameter.name]
        if parameter.default is not parameter.empty:
            field["default"] = parameter.default
        # Named by position, because names such as `json` or `copy` belong to pydantic's models.
        fields[f"argument_{position}"] = (hints[parameter.name], Field(**field))
    try:
        # What a text such as 1e999 would become has no place in JSON, nor in a ledger.
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        arguments = create_model(name, __config__=config, **fields)
        schema = _schema(arguments)
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
        raise BadDefinition(f"{name}: a parameter's type has no schema: {error}") from error
    spec = ToolSpec(name=name, description=description, parameters=schema)
    return spec, ModelArguments(arguments, schema), context_name


class _Untitled(GenerateJsonSchema):
    """Titles repeat the names, and every one of them costs tokens in every prompt."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    schema = arguments.model_json_schema(schema_generator=_Untitled)
    parts: dict[str, Any] = {key: schema[key] for key in ("$defs", "required") if key in schema}
    return {"type": "object", "properties": schema.get("properties", {})} | parts
