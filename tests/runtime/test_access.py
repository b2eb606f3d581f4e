"""Who may do what, with API keys."""

import json
import logging
import re
from pathlib import Path

import httpx
import openai
import pytest
from redis.asyncio import Redis

from agent_runtime import cli
from agent_runtime.service.api import create_app
from agent_runtime.service.guard import audit
from agent_runtime.settings import RuntimeSettings

OPEN = {"/health", "/ready"}
NEVER = "ses-0123456789abcdef-0123456789abcdef"


@pytest.fixture
async def app(stage):
    """The service in this process, on the stage's store and engine."""
    app = create_app(
        RuntimeSettings(redis_url=stage.store.url, model_dir=stage.model, require_keys=True)
    )
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
def client(app):
    """A client with a key, or with none."""

    def made(key=None, **headers):
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://keyed", headers=headers)

    return made


@pytest.fixture
async def keys(store):
    """Makes keys of tenants that are deleted afterwards."""
    tenants = set()

    async def make(tenant="acme", **options):
        tenants.add(tenant)
        await store.tenant(tenant)
        _, text = await store.keys.create(tenant, **options)
        return text

    yield make
    for tenant in tenants:
        await store.delete_tenant(tenant)
        await store.create_tenant(tenant)  # so that the next test may use the name


def routes(app):
    """Method and path of every route, with a session that never was in it."""
    document = app.openapi()
    for path, methods in document["paths"].items():
        for method in methods:
            yield method.upper(), re.sub(r"{session_id}", NEVER, path)


def code_in(answer):
    """Of an error in any form."""
    told = answer.json()
    told = told.get("error", told)
    code = told["details"]["error_code"] if "details" in told else told["code"]
    return "unauthorized" if code == "invalid_api_key" else code


async def test_nothing_is_served_without_a_key_but_whether_the_service_lives(app, client):
    async with client() as nobody:
        for method, path in routes(app):
            answer = await nobody.request(method, path, json={})
            if path in OPEN:
                assert answer.status_code == 200, path
            else:
                assert (answer.status_code, code_in(answer)) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
        assert (await nobody.get("/openapi.json")).status_code == 401
        assert (await nobody.get("/docs")).status_code == 200  # which has nothing of anybody


@pytest.mark.parametrize("change", ["other secret", "other tenant", "other id", "no shape"])
async def test_a_key_that_was_changed_is_none(client, keys, change):
    key = await keys()
    await keys("globex")
    changed = {
        "other secret": key[:-1] + ("0" if key[-1] != "0" else "1"),
        "other tenant": key.replace("acme", "globex"),
        "other id": re.sub(r"\.[0-9a-f]{12}\.", ".000000000000.", key),
        "no shape": "sk-" + key,
    }[change]
    async with client(changed) as forger:
        assert (await forger.get("/v1/sessions")).status_code == 401
    async with client(key) as owner:
        assert (await owner.get("/v1/sessions")).status_code == 200


async def test_a_key_is_also_taken_as_the_other_header(client, keys):
    async with client(**{"X-Api-Key": await keys()}) as owner:
        assert (await owner.get("/v1/sessions")).status_code == 200


async def test_a_tenants_sessions_are_not_there_for_another(app, client, keys):
    async with client(await keys("acme")) as acme, client(await keys("globex")) as globex:
        made = (await acme.post("/v1/sessions", json={"system": "Ours."})).json()
        turn = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 4}
        said = await acme.post(f"/v1/sessions/{made['id']}/turns", json=turn)
        assert "event: result" in said.text
        assert [row["id"] for row in (await acme.get("/v1/sessions")).json()] == [made["id"]]
        assert (await globex.get("/v1/sessions")).json() == []

        asked = 0
        for method, path in routes(app):
            if NEVER not in path:
                continue
            asked += 1
            never = await globex.request(method, path, json={})
            foreign = await globex.request(method, path.replace(NEVER, made["id"]), json={})
            assert foreign.status_code == never.status_code == 404, path
            assert foreign.text.replace(made["id"], NEVER) == never.text, path
        assert asked >= 8

        head = (await acme.get(f"/v1/sessions/{made['id']}")).json()["head"]
        own = (await globex.post("/v1/sessions", json={})).json()["id"]
        stolen = await globex.post(f"/v1/sessions/{own}/fork", json={"snapshot": head})
        assert stolen.status_code == 404


async def test_a_conversation_of_one_tenant_is_not_continued_for_another(client, keys):
    said = [{"role": "user", "content": "What is 31 + 11?"}]

    async def answered(http, messages):
        body = {"messages": messages, "max_tokens": 4}
        text = (await http.post("/v1/converse", json=body)).text
        return json.loads(text[text.index("event: result") :].split("data: ", 1)[1])

    async with client(await keys("acme")) as acme, client(await keys("globex")) as globex:
        first = await answered(acme, said)
        more = [
            *said,
            {"role": "assistant", "content": first["text"], "tool_calls": first["tool_calls"]},
            {"role": "user", "content": "Thanks."},
        ]
        theirs = await answered(globex, more)
        ours = await answered(acme, more)
    assert theirs["usage"]["boundary_tokens"] == 0
    assert theirs["session_id"] != first["session_id"]
    assert ours["session_id"] == first["session_id"]
    async with client(await keys("acme", role="admin")) as admin:
        (slots,) = (await admin.get("/v1/scheduling")).json()
    assert slots["waiting"] == {"acme": 0}  # and of others' queues nothing


async def test_openais_client_uses_a_key_and_sees_what_is_its_tenants(app, keys):
    async def asked(key, messages):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with openai.AsyncOpenAI(
            base_url="http://keyed/v1",
            api_key=key,
            max_retries=0,
            http_client=httpx.AsyncClient(transport=transport),
        ) as client:
            completion = await client.chat.completions.create(
                model="demo", messages=messages, max_tokens=4, temperature=0
            )
        return completion.choices[0]

    said = [{"role": "user", "content": "What is 32 + 11?"}]
    acme, globex = await keys("acme"), await keys("globex")
    first = await asked(acme, said)
    more = [*said, first.message, {"role": "user", "content": "Thanks."}]
    assert (await asked(globex, more)).torpor["parent"] is None
    assert (await asked(acme, more)).torpor["parent"] == first.torpor["snapshot"]
    with pytest.raises(openai.AuthenticationError) as refused:
        await asked("sk-none", said)
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await asked(await keys(role="read"), said)
    assert refused.value.code == "forbidden"


async def test_roles_allow_what_they_say(client, keys):
    async with (
        client(await keys(role="read")) as reader,
        client(await keys(role="use")) as user,
        client(await keys(role="admin")) as admin,
    ):
        refused = await reader.post("/v1/sessions", json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        made = (await user.post("/v1/sessions", json={})).json()
        assert (await reader.get(f"/v1/sessions/{made['id']}")).status_code == 200
        assert (await reader.delete(f"/v1/sessions/{made['id']}")).status_code == 403
        for path in ("/v1/keys", "/v1/scheduling"):
            assert (await user.get(path)).status_code == 403
            assert (await admin.get(path)).status_code == 200


async def test_an_admin_makes_and_revokes_keys_of_its_own_tenant(client, keys, store):
    async with client(await keys(role="admin")) as admin:
        made = (await admin.post("/v1/keys", json={"role": "use", "name": "agents"})).json()
        assert made["tenant"] == "acme"
        async with client(made["key"]) as user:
            assert (await user.get("/v1/sessions")).status_code == 200
        listed = (await admin.get("/v1/keys")).json()
        assert made["key"] not in json.dumps(listed)
        assert {row["id"] for row in listed} >= {made["id"]}
        assert (await admin.delete(f"/v1/keys/{made['id']}")).status_code == 204
        assert (await admin.delete(f"/v1/keys/{made['id']}")).status_code == 404
    assert await store.keys.verified(made["key"]) is None


async def test_an_expired_key_is_none(client, keys):
    async with client(await keys(expires_in=1e-6)) as late:
        assert (await late.get("/v1/sessions")).status_code == 401


async def test_a_key_makes_as_many_requests_a_minute_as_it_may(client, keys):
    async with client(await keys(per_minute=3)) as hasty:
        # The minute may turn once in between.
        answers = [await hasty.get("/v1/sessions") for _ in range(8)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 2
    assert all(answer.json()["code"] == "rate_limited" for answer in refused)
    assert all(0 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)


async def test_keys_of_a_deleted_tenant_are_gone(store):
    await store.tenant("leaving")
    _, text = await store.keys.create("leaving")
    assert await store.keys.verified(text) is not None
    await store.delete_tenant("leaving")
    assert await store.keys.verified(text) is None


async def test_the_secret_is_nowhere_in_the_store(stage, keys):
    secret = (await keys()).rpartition(".")[2].encode()
    async with Redis(unix_socket_path=stage.store.url.removeprefix("unix://")) as redis:
        seen = 0
        async for name in redis.scan_iter("*tenant:*"):
            seen += 1
            dump = await redis.dump(name)
            assert secret not in name
            assert dump is None or (
                secret not in dump and bytes.fromhex(secret.decode()) not in dump
            )
    assert seen


async def test_the_audit_log_has_changes_and_refusals_without_secrets(client, keys):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    key = await keys(role="use")
    try:
        async with client(key) as user, client() as nobody:
            made = (await user.post("/v1/sessions", json={"system": "the plan"})).json()
            await user.get(f"/v1/sessions/{made['id']}")
            await nobody.delete(f"/v1/sessions/{made['id']}")
    finally:
        audit.removeHandler(handler)
    created, refused = map(json.loads, lines)
    assert (created["method"], created["path"], created["status"]) == ("POST", "/v1/sessions", 201)
    assert (created["tenant"], created["key"]) == ("acme", key.split(".")[1])
    assert created["request_id"].startswith("req-")
    assert (refused["key"], refused["status"], refused["refused"]) == (None, 401, "unauthorized")
    assert "the plan" not in "".join(lines)
    assert key.rpartition(".")[2] not in "".join(lines)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "torpor.example"])
def test_no_service_without_keys_listens_where_others_can_reach_it(stage, capsys, host):
    code = cli.main(
        ["serve", "--redis", stage.store.url, "--model", str(stage.model), "--host", host]
    )
    assert code == 1
    assert "--require-keys" in capsys.readouterr().err


def test_keys_are_made_listed_and_revoked_on_the_command_line(stage, capsys):
    at = ["--redis", stage.store.url, "--tenant", "by-hand"]
    assert cli.main(["keys", "create", *at, "--role", "read", "--name", "me", "--days", "1"]) == 0
    key = capsys.readouterr().out.strip()
    assert cli.main(["keys", "list", *at]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["role"], row["name"], row["tenant"]) == ("read", "me", "by-hand")
    assert row["expires_at"] - row["created_at"] == 86400
    assert key.split(".")[1] == row["id"]
    assert cli.main(["keys", "revoke", *at, row["id"]]) == 0
    assert cli.main(["keys", "list", *at]) == 0
    assert capsys.readouterr().out == ""


def test_the_page_names_the_commands_that_there_are(capsys):
    page = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    for action in ("create", "list", "revoke"):
        assert f"keys {action}" in page
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main(["keys", action, "--help"])
