"""What no route says of itself in the OpenAPI document: keys, and refusals of routes that declare
none, in the form that their path's clients read (see `shapes.py`)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastapi import FastAPI

from agent_runtime.access.guard import OPEN
from agent_runtime.errors import TorporError
from agent_runtime.models import Problem
from agent_runtime.service.document import Responses, codes_of, one_problem, problems
from agent_runtime.service.shapes import Shape, shape_of
from engine.errors import EngineError
from state_store.errors import StoreError
from tools.errors import ToolsError

_ALL: tuple[type[Exception], ...] = (TorporError, EngineError, StoreError, ToolsError)
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


def complete(app: FastAPI, *, keyed: bool) -> None:
    """Have the document of `app` say it. keyed: whether requests need a key."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {})[Problem.__name__] = Problem.model_json_schema()
            if keyed:
                components["securitySchemes"] = _SCHEMES
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _add_refusals(operation["responses"], shape_of(path))
                    if keyed and path not in OPEN:
                        operation["security"] = [{name: []} for name in _SCHEMES]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_refusals(responses: dict[str, Any], shape: Shape | None) -> None:
    if "HTTPValidationError" in str(responses.get("422")):  # FastAPI's own, which nobody sends
        del responses["422"]
    if any(status.startswith("4") for status in responses):  # the route declares its own
        return
    for status, answer in _told(shape).items():
        responses.setdefault(str(status), answer)


def _told(shape: Shape | None) -> Responses:
    """All refusals in the form of one protocol."""
    if shape is None:
        return problems(*_ALL)
    codes: dict[int, set[str]] = defaultdict(set)
    schema: dict[str, Any] = {}
    for status, named in codes_of(*_ALL).items():
        for code in named:
            there, body = shape(Problem(title="", status=status, code=code, detail=""))
            schema = _schema_of(body)
            codes[there].add(body["error"]["code"])
    return {
        status: one_problem(status, *codes[status])
        | {"content": {"application/json": {"schema": schema}}}
        for status in sorted(codes)
    }


def _schema_of(body: object) -> dict[str, Any]:
    """What is not said of the example may be said in other cases."""
    if isinstance(body, dict):
        return {
            "type": "object",
            "properties": {name: _schema_of(value) for name, value in body.items()},
            "required": list(body),
            "additionalProperties": False,
        }
    return {"type": "string"} if isinstance(body, str) else {"type": ["string", "null"]}
