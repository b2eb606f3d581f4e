"""The OpenAPI document names every operation, and its examples are what the models take."""

import pytest

from agent_runtime.service.api import create_app
from agent_runtime.service.operations import EXAMPLES, OPERATIONS


@pytest.fixture(scope="module")
def document():
    from agent_runtime.settings import RuntimeSettings
    from engine.backends.settings import BackendSettings

    backend = BackendSettings(url="http://nowhere/v1", model="m")
    settings = RuntimeSettings(redis_url="redis://nowhere", backend=backend, require_keys=True)
    return create_app(settings).openapi()


@pytest.fixture
def operations(document):
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_operations_have_ids_of_their_own_and_summaries(operations):
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for operation in operations.values())
    missing = sorted(set(OPERATIONS) - set(operations))
    assert not missing, "named, and not there"
    assert operations["POST /v1/sessions/{session_id}/turns"]["operationId"] == "takeTurn"


def test_every_operation_has_a_success_and_its_refusals(operations):
    for name, operation in operations.items():
        statuses = {int(status) for status in operation["responses"]}
        assert any(200 <= status < 300 for status in statuses), name
        if name not in ("GET /metrics", "GET /ready", "GET /health"):
            assert {401, 403, 500} <= statuses, name


def test_bodies_of_sessions_have_examples_that_their_models_take(document, operations):
    schemas = document["components"]["schemas"]
    shown = 0
    for name, operation in operations.items():
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None or "/sessions" not in name or "/effects" in name or "/workspace" in name:
            continue
        schema = schemas[body["schema"]["$ref"].rpartition("/")[2]]
        assert schema["examples"], name
        shown += 1
    assert shown >= 8
    for example in EXAMPLES:
        (given,) = schemas[type(example).__name__]["examples"]
        assert type(example).model_validate(given) == example


@pytest.mark.parametrize("name", ["takeTurn", "suspendSession", "forkSession", "deleteSession"])
def test_conditional_requests_are_documented(operations, name):
    (operation,) = (one for one in operations.values() if one["operationId"] == name)
    assert "412" in operation["responses"]
    assert "if-match" in [parameter["name"] for parameter in operation["parameters"]]
