"""Two engines behind a router, which sends each turn to another one than the last."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from itertools import pairwise

import httpx
import pytest

from agent_runtime.demo.script import SYSTEM
from agent_runtime.sdk import Torpor
from agent_runtime.turns import placing
from engine.launch import free_port
from state_store.store import StateStore
from state_store.vault import Vault
from tests.serving import runtime_process

from ..served import served
from ..talk import HISTORY, PAGE, QUESTIONS, say
from .running import ids

pytestmark = pytest.mark.slow


@pytest.fixture
def router(engines, tmp_path):
    """URL of a real router that sends each request to another engine than the last one."""
    port = free_port()
    command = [
        sys.executable, "-m", "sglang_router.launch_router",
        "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()),
        "--policy", "round_robin", "--health-check-endpoint", "/model_info",
        "--worker-urls", *(engine.url for engine in engines.values()),
    ]  # fmt: skip
    with (tmp_path / "router.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
async def routed(stage, router, tmp_path):
    """A runtime whose turns go through the router."""
    runtime = runtime_process(
        stage.store.url,
        tmp_path / "runtime.log",
        model=stage.model,
        options=["--router", router],
    )
    with runtime:
        await until_both_serve(router)
        async with Torpor(runtime.url) as client:
            yield client


@pytest.fixture
async def sealed(stage, router):
    """A runtime behind the router, of an encrypted tenant whose key only the first engine has."""
    name = f"sealed-{secrets.token_hex(4)}"
    vault = Vault.load(stage.master_key)
    async with await StateStore.connect(stage.store.url, vault=vault) as vaulted:
        await vaulted.create_tenant(name, encrypted=True)
        given = {"tenant": name, "master_key_source": stage.master_key, "router": router}
        async with served(stage, **given) as client:
            await until_both_serve(router)
            yield client
        assert (await vaulted.check_integrity()).problems == []
        await vaulted.delete_tenant(name)


async def until_both_serve(router_url):
    async with httpx.AsyncClient(base_url=router_url, trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                workers = (await client.get("/workers")).json()["workers"]
                if sum(worker["is_healthy"] for worker in workers) == 2:
                    return
            await asyncio.sleep(0.2)


async def test_behind_a_router_every_engine_goes_on_with_every_session(routed, torpor, new_session):
    session = await new_session()
    control = await say(torpor, session.id, *HISTORY, *QUESTIONS)
    same = await routed.fork(session.id, tokens=0)
    turns = await say(routed, same.id, *HISTORY, *QUESTIONS)
    assert ids(turns) == ids(control)
    assert {turn.engine for turn in turns} == {"engine", "second"}
    moves = list(pairwise(turns))
    assert all(one.engine != other.engine for one, other in moves)
    assert all(other.usage.recomputed_tokens <= PAGE for _, other in moves)
    assert "router" in " ".join(turn.engine_because for turn in turns)
    assert all(turn.not_durable_because is None for turn in turns)
    await routed.delete(same.id)


async def test_behind_a_router_an_encrypted_session_goes_past_it_to_an_engine_with_the_key(
    request, sealed, torpor, new_session, registry
):
    session = await new_session()
    control = await say(torpor, session.id, *HISTORY, *QUESTIONS)
    system = f"{SYSTEM} {request.node.name} 0"  # the other one's
    same = await sealed.create(system=system, tools=registry.specs())
    turns = await say(sealed, same.id, *HISTORY, *QUESTIONS)
    assert ids(turns) == ids(control)
    assert {turn.engine for turn in turns} == {"engine"}
    assert all("past the router, since some lack master key" in t.engine_because for t in turns)
    assert all(turn.engine_because.endswith(": second") for turn in turns)
    assert all(turn.not_durable_because is None for turn in turns)
    assert all(turn.usage.recomputed_tokens <= PAGE for turn in turns[1:])


async def test_what_a_router_gives_to_an_engine_without_the_key_is_right_and_says_so(
    request, sealed, torpor, new_session, registry, pool, monkeypatch
):
    session = await new_session()
    control = await say(torpor, session.id, *HISTORY, *QUESTIONS)
    system = f"{SYSTEM} {request.node.name} 0"  # the other one's
    same = await sealed.create(system=system, tools=registry.specs())
    failed = (await (await pool.named("second")).counts(timeout=30)).failed_offloads
    # As if it had been started after the turn was placed.
    lacking = placing._lacking
    monkeypatch.setattr(placing, "_lacking", lambda key, of: lacking(key, of[:-1] or of))
    turns = await say(sealed, same.id, *HISTORY, *QUESTIONS)
    assert ids(turns) == ids(control)
    assert {turn.engine for turn in turns} == {"engine", "second"}
    for before, turn in pairwise(turns):
        if turn.engine == "second":
            assert "second, which lacks master key" in turn.usage.recompute_reason
            assert turn.boundary == before.boundary
        if turn.engine == "second" and turn.usage.prompt_tokens - turn.boundary > 2 * PAGE:
            assert "is encrypted under master key" in turn.not_durable_because
    assert (await (await pool.named("second")).counts(timeout=30)).failed_offloads > failed
