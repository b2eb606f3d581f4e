"""What every request passes through, whatever it asks for."""

import asyncio
import contextlib
import io
import json
import logging

import httpx
import pytest

from agent_runtime.http.request_ids import JsonLines
from agent_runtime.service.api import create_app
from agent_runtime.service.bodies import Bodies
from agent_runtime.settings import BodyLimits, RuntimeSettings
from state_store.embedded import EmbeddedServer

MIB = 1 << 20
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def http(stage):
    async with httpx.AsyncClient(base_url=stage.runtime.url, trust_env=False) as client:
        yield client


@pytest.fixture
async def alone(stage, tmp_path):
    """The service in this process, over a store of its own that has no engine."""
    with EmbeddedServer(tmp_path) as server:
        settings = RuntimeSettings(
            redis_url=server.url, model_dir=stage.model, allowed_hosts="alone"
        )
        app = create_app(settings)

        @app.get("/broken")
        async def broken():
            raise RuntimeError("the secret of the house")

        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://alone") as client,
        ):
            yield client


async def sent_raw(stage, head, pieces=()):
    """The answer to bytes that no client library would send; reading stops at its end."""
    host, port = stage.runtime.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)
    with contextlib.suppress(ConnectionError):  # it may hang up on what it refuses
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    return body["code"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ({}, b"{}", 415, "unsupported_media_type"),
        (JSON, b'{"system": "\xff"}', 400, "malformed_body"),
        (JSON, b"[" * 5000 + b"]" * 5000, 400, "too_deep"),
        (JSON, b'{"system": ' * 65 + b"1" + b"}" * 65, 400, "too_deep"),
        (JSON, b'{"system": ', 400, "malformed_body"),
        (JSON, b'{"unknown": 1}', 422, "invalid_request"),
    ],
)
async def test_a_body_that_cannot_be_served_is_refused_by_name(http, headers, body, status, code):
    answer = await http.post("/v1/sessions", content=body, headers=headers)
    assert (answer.status_code, problem(answer)) == (status, code)


async def test_brackets_in_text_are_no_depth(http):
    system = "[{" * 1000 + '\\"' * 3
    answer = await http.post("/v1/sessions", json={"system": system})
    assert answer.status_code == 201
    await http.delete(f"/v1/sessions/{answer.json()['id']}")


async def test_many_shallow_objects_are_no_depth(http):
    labels = {f"key-{i}": "v" for i in range(200)}
    answer = await http.post("/v1/sessions", json={"tools": [{"labels": labels}] * 100})
    assert problem(answer) == "invalid_request"


async def test_a_giant_body_is_refused_before_it_is_read(stage, http):
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99999999999\r\n\r\n"
    )
    assert b" 413 " in await sent_raw(stage, head)
    assert (await http.get("/health")).status_code == 200


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(stage, http):
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"%x\r\n" % MIB + b"[" * MIB + b"\r\n"
    assert b" 413 " in await sent_raw(stage, head, [piece] * 66)
    assert (await http.get("/health")).status_code == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(stage, http):
    host, port = stage.runtime.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"sys'
    )
    await writer.drain()
    writer.close()
    assert (await http.get("/health")).status_code == 200


async def test_a_body_that_never_ends_is_given_up():
    answers = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        answers.append(message)

    async def app(scope, receive, send):
        raise AssertionError("no route is asked for what did not come")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/sessions",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"9")],
    }
    await Bodies(app, BodyLimits(seconds=0.05))(scope, receive, send)
    assert answers[0]["status"] == 408
    assert json.loads(answers[1]["body"])["code"] == "body_timeout"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v2", 404, "no_such_path"), ("PUT", "/health", 405, "method_not_allowed")],
)
async def test_what_is_not_there_is_a_problem_document_too(http, method, path, status, code):
    answer = await http.request(method, path)
    assert (answer.status_code, problem(answer)) == (status, code)


async def test_an_error_that_nobody_foresaw_is_told_by_id_only(alone):
    answer = await alone.get("/broken", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, problem(answer)) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "mine"


async def test_a_request_keeps_its_id_unless_it_could_forge_the_log(http):
    kept = await http.get("/health", headers={"X-Request-Id": "agent-7.turn:3"})
    assert kept.headers["x-request-id"] == "agent-7.turn:3"
    forged = await http.get("/health", headers={"X-Request-Id": 'a" "level": "x'})
    assert forged.headers["x-request-id"].startswith("req-")


async def test_log_lines_are_json_with_the_requests_id(alone):
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("agent_runtime.service.answers")
    logger.addHandler(handler)
    try:
        await alone.post(
            "/v1/sessions", json={"system": 'of "quotes"'}, headers={"X-Request-Id": "mine"}
        )
    finally:
        logger.removeHandler(handler)
    line = json.loads(lines.getvalue())
    assert (line["level"], line["request_id"]) == ("error", "mine")
    assert "/v1/sessions" in line["message"]


async def test_a_service_without_an_engine_is_alive_and_not_ready(alone, http):
    answer = await alone.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False, "engines": 0, "reason": "no engine is registered in the store",
    }  # fmt: skip
    assert (await alone.get("/health")).status_code == 200
    assert (await http.get("/ready")).json() == {"ready": True, "engines": 1, "reason": None}


def counts(text):
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


async def test_metrics_count_what_a_turn_reports(http, torpor):
    # Said nowhere else: what is stored already is not offloaded again.
    session = await torpor.create(system="You count what is counted. " * 30)
    before = counts((await http.get("/metrics")).text)
    first = await torpor.turn(session.id, "What is 48 * 17?", max_tokens=8)
    await torpor.suspend(session.id)
    resumed = await torpor.resume(session.id)
    second = await torpor.turn(session.id, "Thanks.", max_tokens=8)
    waiting = f'torpor_engine_offload_waiting_bytes{{engine="{first.engine}"}}'
    for _ in range(600):
        after = counts((await http.get("/metrics")).text)
        if not after[waiting]:
            break
        await asyncio.sleep(0.1)  # a state that no commit needs may still be on its way
    assert after[waiting] == 0

    def grown(name):
        return after.get(name, 0.0) - before.get(name, 0.0)

    usages = (first.usage, second.usage)
    for kind, tokens in {
        "reused": sum(usage.reused_tokens for usage in usages),
        "recomputed": sum(usage.recomputed_tokens for usage in usages),
        "computed": sum(usage.prompt_tokens - usage.reused_tokens for usage in usages),
        "generated": sum(usage.completion_tokens for usage in usages),
    }.items():
        assert grown(f'torpor_tokens_total{{engine="{first.engine}",kind="{kind}"}}') == tokens
    assert grown("gen_ai_server_time_to_first_token_seconds_count") == 2
    written = first.bytes_written + second.bytes_written
    assert grown('torpor_state_bytes_total{direction="written"}') == written
    assert grown('torpor_state_bytes_total{direction="read"}') == resumed.bytes_read
    assert grown("torpor_suspend_seconds_count") == 1
    route = "/v1/sessions/{session_id}/turns"
    posted = f'torpor_http_requests_total{{method="POST",route="{route}",status="200"}}'
    assert grown(posted) == 2
    assert session.id not in "".join(after)
    assert after["torpor_engines"] == 1

    def of_engine(metric, **labels):
        all_labels = sorted({"engine": first.engine, **labels}.items())
        told = ",".join(f'{name}="{value}"' for name, value in all_labels)
        return f"{metric}{{{told}}}"

    assert after[of_engine("torpor_engine_answers")] == 1
    computed = sum(usage.prompt_tokens - usage.reused_tokens for usage in usages)
    assert grown(of_engine("torpor_engine_prefill_tokens_total")) >= computed
    offloaded = grown(of_engine("torpor_engine_state_bytes_total", direction="offload"))
    assert offloaded >= written
    assert grown(of_engine("torpor_engine_state_work_seconds_total", direction="offload")) > 0
    assert after[of_engine("torpor_engine_failures_total", direction="offload")] == 0
    assert after[of_engine("torpor_engine_requests", place="waiting")] == 0
    await torpor.delete(session.id)
