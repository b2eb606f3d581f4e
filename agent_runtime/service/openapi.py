"""What no route says of itself in the OpenAPI document: which keys a request needs."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from agent_runtime.service.guard import OPEN

_SAYS = "An API key, as `torpor keys create` prints it; one of the two headers is enough."
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": _SAYS},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": _SAYS},
}


def document_keys(app: FastAPI) -> None:
    """Have the document of `app` say it of all that `Guard` does not leave open."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document["components"]["securitySchemes"] = _SCHEMES
            for path, operations in document["paths"].items():
                if path not in OPEN:
                    for operation in operations.values():
                        operation["security"] = [{name: []} for name in _SCHEMES]
        assert app.openapi_schema is not None, "FastAPI keeps what it has made"
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
