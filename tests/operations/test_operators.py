"""Who runs the service sees what all tenants take and sets what they may have, and no session."""

import contextlib
import re

import httpx
import pytest

from agent_runtime import cli
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.tenants import TenantQuota
from state_store.api_keys import OPERATORS

OF_OPERATORS = re.compile(r"/metrics|/v1/scheduling|/v1/tenants.*")
OPEN = {"/health", "/ready"}


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"require_keys": True, "metrics_tenants": 1})


@pytest.fixture
async def torpor(app, store):
    """Makes clients with a key of a role; of an operator where no tenant is named."""

    async with contextlib.AsyncExitStack() as opened:

        async def made(tenant=OPERATORS, role="use"):
            if tenant == OPERATORS:
                role = "operator"
            else:
                await store.tenant(tenant)
            _, key = await store.keys.create(tenant, role=role)
            client = Torpor("http://runtime", api_key=key, transport=httpx.ASGITransport(app))
            return await opened.enter_async_context(client)

        yield made
    for key in await store.keys.of(OPERATORS):
        await store.keys.revoke(OPERATORS, key.id)


async def answer(torpor, method, path, **more):
    return await torpor._http.request(method, path, **more)


async def test_a_quota_is_set_read_and_held_to_over_http(torpor):
    operator, limited = await torpor(), await torpor("limited")
    assert await operator.tenants.quota("limited") == TenantQuota()
    limits = TenantQuota(sessions=1, bytes=1 << 30)
    assert await operator.tenants.set_quota("limited", limits) == limits
    assert await operator.tenants.quota("limited") == limits
    await limited.create(stateless=True)
    with pytest.raises(ApiError) as full:
        await limited.create(stateless=True)
    assert full.value.code == "quota_exceeded"
    assert (await operator.tenants.usage("limited")).sessions == 1
    await operator.tenants.set_quota("limited", TenantQuota())
    await limited.create(stateless=True)
    assert (await operator.tenants.usage("limited")).sessions == 2


async def test_a_quota_may_come_before_its_tenant(torpor, store):
    operator = await torpor()
    await operator.tenants.set_quota("not-yet", TenantQuota(sessions=0))
    assert "not-yet" in [tenant.name async for tenant in operator.tenants.all()]
    with pytest.raises(ApiError) as refused:
        await (await torpor("not-yet")).create(stateless=True)
    assert refused.value.code == "quota_exceeded"


async def test_tenants_are_listed_by_name_in_pages_without_those_that_were_deleted(torpor, store):
    operator = await torpor()
    for name in ("list-c", "list-a", "list-b", "list-gone"):
        await store.tenant(name)
    await store.delete_tenant("list-gone")
    names = [tenant.name async for tenant in operator.tenants.all(limit=2)]
    assert names == sorted(set(names))
    assert [name for name in names if name.startswith("list-")] == ["list-a", "list-b", "list-c"]
    with pytest.raises(ApiError) as gone:
        await operator.tenants.usage("list-gone")
    assert gone.value.code == "tenant_deleted"


@pytest.mark.parametrize("name", ["nobody", "no:body", "@operators"])
async def test_looking_at_a_tenant_makes_none(torpor, store, name):
    operator = await torpor()
    for look in (operator.tenants.usage, operator.tenants.quota):
        with pytest.raises(ApiError) as none:
            await look(name)
        assert none.value.code in ("not_found", "invalid_tenant")
    assert name not in [tenant.name for tenant in (await store.page_of_tenants(limit=1000))[0]]


@pytest.mark.parametrize("limit", [-1, 1.5, "many", 2**53])
async def test_a_quota_that_is_none_changes_nothing(torpor, limit):
    operator = await torpor()
    await operator.tenants.set_quota("kept", TenantQuota(tokens=7))
    refused = await answer(operator, "PUT", "/v1/tenants/kept/quota", json={"tokens": limit})
    assert refused.status_code == 422
    assert (await operator.tenants.quota("kept")).tokens == 7


async def test_an_operator_sees_no_session_and_changes_none(app, torpor):
    operator, acme = await torpor(), await torpor("acme")
    session = await acme.create(system="Ours.", stateless=True)
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        if path in OPEN or OF_OPERATORS.fullmatch(path):
            continue
        for method in methods:
            url = re.sub("{session_id}", session.id, path)
            refused = await answer(operator, method, url, json={})
            assert (refused.status_code, "Ours." in refused.text) == (403, False), path
            asked += 1
    assert asked >= 40
    assert (await answer(operator, "GET", "/openapi.json")).status_code == 403
    assert (await acme.get(session.id)).id == session.id


@pytest.mark.parametrize("role", ["read", "use", "admin"])
async def test_no_tenants_key_reaches_what_is_of_operators(app, torpor, role):
    tenants = await torpor("acme", role)
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        if OF_OPERATORS.fullmatch(path) and path != "/v1/scheduling":
            for method in methods:
                url = path.replace("{name}", "acme")
                assert (await answer(tenants, method, url, json={})).status_code == 403, path
                asked += 1
    assert asked == 5


async def test_an_admin_makes_no_key_of_an_operator(torpor, store):
    admin = await torpor("acme", "admin")
    refused = await answer(admin, "POST", "/v1/keys", json={"role": "operator"})
    assert refused.status_code == 422
    assert await store.keys.of(OPERATORS) == []


async def test_metrics_name_as_many_tenants_as_they_may(torpor, endpoint, script):
    operator = await torpor()
    for tenant in ("first", "second", "third"):
        script("Yes.")
        client = await torpor(tenant)
        await client.turn((await client.create(stateless=True)).id, "Well?")
    page = (await answer(operator, "GET", "/metrics")).text
    turns = dict(re.findall(r'^torpor_tenant_turns_total{tenant="(.*?)"} (.*)$', page, re.M))
    assert turns == {"first": "1.0", "other": "2.0"}
    assert 'torpor_tenant_tokens_total{tenant="first",type="input"} 9.0' in page
    assert 'torpor_tenant_tokens_total{tenant="other",type="output"} 4.0' in page


def test_keys_of_operators_are_made_listed_and_revoked_on_the_command_line(bare_store, capsys):
    at = ["--redis", bare_store.url]
    assert cli.main(["keys", "create", *at, "--role", "operator", "--name", "prometheus"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith(f"torpor-{OPERATORS}.")
    assert cli.main(["keys", "list", *at, "--operators"]) == 0
    printed = capsys.readouterr().out
    assert '"role": "operator", "name": "prometheus"' in printed
    assert cli.main(["keys", "revoke", *at, "--operators", key.split(".")[1]]) == 0
    assert cli.main(["keys", "create", *at, "--role", "operator", "--tenant", "acme"]) == 1
    assert "nothing was done" in capsys.readouterr().err
