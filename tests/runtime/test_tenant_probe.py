"""What one tenant can tell of another's prompts, told by counts. Times: `torpor bench tenants`."""

import contextlib
import random
import re
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from agent_runtime.bench.tenants import Trial, probe, rank_test, record_of
from agent_runtime.sdk import Torpor
from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings

PAGE = (Path(__file__).parents[2] / "docs" / "bench-sessions.md").read_text("utf-8")
OBJECT = re.compile(r"torpor:(?:kv|state|mtp)[a-z]*:[^ {]*\{(\w+)")


@pytest.fixture
async def tenants(stage, store):
    """The victim's and the attacker's clients, of one service in this process."""
    app = create_app(
        RuntimeSettings(redis_url=stage.store.url, model_dir=stage.model, require_keys=True)
    )
    async with app.router.lifespan_context(app), contextlib.AsyncExitStack() as open_clients:
        clients = []
        for tenant in ("victim", "attacker"):
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant)
            transport = httpx.ASGITransport(app)
            client = Torpor("http://probed", api_key=key, transport=transport)
            clients.append(await open_clients.enter_async_context(client))
        yield clients
    for tenant in ("victim", "attacker"):
        await store.delete_tenant(tenant)
        await store.create_tenant(tenant)  # so that the next test may use the name


async def test_nothing_of_anothers_prompt_is_reused_or_looked_up(stage, tenants):
    victim, attacker = tenants
    named: dict[str, set[str]] = {"victim": set(), "attacker": set()}

    def watched(client, tenant):
        """The client; which objects the store is asked for in its calls is noted."""
        ask = client.turn

        async def turn(*arguments, **options):
            path = stage.store.url.removeprefix("unix://")
            async with Redis(unix_socket_path=path) as redis, redis.monitor() as monitor:
                result = await ask(*arguments, **options)
                await redis.echo("that was all")
                while "that was all" not in (line := (await monitor.next_command())["command"]):
                    named[tenant].update(OBJECT.findall(line))
            return result

        client.turn = turn
        return client

    seen = await probe(
        watched(victim, "victim"), watched(attacker, "attacker"), trials=8, words=120, seed=3
    )
    assert [trial.reused for trial in seen] == [0] * 8
    assert all(trial.own_reused > 0 for trial in seen)  # so that a cache would have shown
    assert len(named["victim"]) >= 8
    assert len(named["attacker"]) >= 8
    assert not named["victim"] & named["attacker"]


def test_the_bench_tells_a_leak_from_none():
    drawn = random.Random(1)

    def trial(known, leak):
        seconds = drawn.gauss(1.0, 0.1) - (0.2 if known and leak else 0.0)
        return Trial(known, seconds, 0, drawn.gauss(0.5, 0.1), 64)

    tight = record_of([trial(number % 2 == 0, leak=False) for number in range(300)])
    leaky = record_of([trial(number % 2 == 0, leak=True) for number in range(300)])
    assert tight["p"] > 0.01
    assert 0.4 < tight["hit_is_sooner"] < 0.6
    assert leaky["p"] < 1e-6 < leaky["hit_is_sooner"]
    assert (tight["own_p"], tight["own_is_sooner"]) < (1e-6, 1.1)
    assert [field for field in tight if f'"{field}": ' not in PAGE] == []


def test_the_rank_test_gives_what_is_worked_out_by_hand():
    less, p = rank_test([1.0, 2.0, 3.0], [2.0, 4.0, 5.0])
    assert less == pytest.approx(7.5 / 9)
    assert p == pytest.approx(0.1904, abs=1e-3)
