"""Makes a tool of a typed Python function: its schema, its argument checks, its limits."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_json

from tools.docstrings import describe
from tools.errors import BadDefinition, ToolFailed

logger = logging.getLogger(__name__)


class ToolSpec(BaseModel):
    """A tool as the model sees it. `parameters` is a JSON schema of type object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What the model gets back. With `error`, `text` says what was wrong and what to do."""

    text: str
    error: bool = False


@dataclass(frozen=True)
class Tool:
    """timeout: seconds one call may take
    max_chars: a longer result is cut there, with a note saying so
    """

    spec: ToolSpec
    timeout: float
    max_chars: int
    _function: Callable[..., Any]
    _arguments: type[BaseModel]

    async def call(self, arguments: Mapping[str, Any]) -> Outcome:
        """Check the arguments and run the function. Raises nothing but cancellation.

        Strings are converted to what the schema says, since XML calls hold nothing else. A sync
        function runs in a thread; after the timeout it is abandoned, not stopped.
        """
        name = self.spec.name
        try:
            checked = self._arguments.model_validate(self._converted(arguments))
        except ValidationError as error:
            return Outcome(self._refusal(error), error=True)
        given = {key: getattr(checked, field) for key, field, _ in self._parameters()}
        deadline = asyncio.timeout(self.timeout)
        try:
            async with deadline:
                if inspect.iscoroutinefunction(self._function):
                    result = await self._function(**given)
                else:
                    result = await asyncio.to_thread(self._function, **given)
            return Outcome(self._cut(_as_text(result)))
        except ToolFailed as error:
            return Outcome(self._cut(str(error)), error=True)
        except Exception as error:  # the model, not our caller, has to deal with a broken tool
            if deadline.expired():
                return Outcome(
                    f"{name} took longer than {self.timeout:g} seconds and was given up. "
                    "Ask for less, or do without.",
                    error=True,
                )
            logger.exception("tool %s failed", name)
            reason = f"{name} failed: {type(error).__name__}: {error}"
            return Outcome(self._cut(reason), error=True)

    def _converted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        converted = dict(arguments)
        for name, _, kind in self._parameters():
            value = converted.get(name)
            if isinstance(value, str):
                converted[name] = _from_string(value, TypeAdapter(kind))
        return converted

    def _parameters(self) -> list[tuple[str, str, Any]]:
        """Name, field of the arguments model, and type of each parameter."""
        fields = self._arguments.model_fields
        return [(field.alias or key, key, field.annotation) for key, field in fields.items()]

    def _refusal(self, error: ValidationError) -> str:
        known = ", ".join(self.spec.parameters["properties"]) or "none"
        lines = [f"{self.spec.name} was not run, its arguments are wrong:"]
        for item in error.errors(include_url=False, include_context=False):
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(f"- {where}: no such parameter; the parameters are: {known}")
            elif item["type"] == "missing":
                lines.append(f"- {where}: missing")
            else:
                lines.append(f"- {where}: {item['msg']}, got {_short(item['input'])}")
        return "\n".join(lines)

    def _cut(self, text: str) -> str:
        if len(text) <= self.max_chars:
            return text
        return f"{text[: self.max_chars]}\n[cut: {self.max_chars} of {len(text)} characters]"


def define(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    timeout: float = 30.0,
    max_chars: int = 20_000,
) -> Tool:
    """Make a tool of `function`, sync or async.

    The docstring before its first section (`Args:`, `Raises:`, …) is what the model reads about
    the tool; the `Args:` section describes the parameters. Results that are not strings are given
    as JSON.
    Raises BadDefinition if the function has no docstring, a parameter without an annotation or
    not usable by name, or a type that has no schema.
    """
    name = name or function.__name__
    description, described = describe(function.__doc__ or "")
    if not description:
        raise BadDefinition(f"{name} has no docstring: a model would not know what it does.")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise BadDefinition(f"{name}: an annotation cannot be resolved: {error}") from error
    fields: dict[str, Any] = {}
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadDefinition(f"{name}: parameter {parameter} cannot be given by name.")
        if parameter.name not in hints:
            raise BadDefinition(f"{name}: parameter {parameter.name} has no annotation.")
        options: dict[str, Any] = {"alias": parameter.name}
        if parameter.name in described:
            options["description"] = described[parameter.name]
        if parameter.default is not parameter.empty:
            options["default"] = parameter.default
        # Named by position, because names such as `json` or `copy` belong to pydantic's models.
        fields[f"argument_{position}"] = (hints[parameter.name], Field(**options))
    try:
        arguments = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except PydanticSchemaGenerationError as error:
        raise BadDefinition(f"{name}: a parameter's type has no schema: {error}") from error
    spec = ToolSpec(name=name, description=description, parameters=_schema(arguments))
    return Tool(spec, timeout, max_chars, function, arguments)


class _Untitled(GenerateJsonSchema):
    """Titles repeat the names, and every one of them costs tokens in every prompt."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    schema = arguments.model_json_schema(schema_generator=_Untitled)
    parts: dict[str, Any] = {key: schema[key] for key in ("$defs", "required") if key in schema}
    return {"type": "object", "properties": schema.get("properties", {})} | parts


def _from_string(value: str, adapter: TypeAdapter[Any]) -> Any:
    """`value` itself where the type takes it as it is, else what it means as JSON, if anything."""
    try:
        adapter.validate_python(value)
        return value
    except ValidationError:
        pass
    try:
        return json.loads(value)
    except ValueError:
        return value


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else to_json(result).decode()


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
