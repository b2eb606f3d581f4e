"""A runtime whose store lets it do what docs/deploy-store.md says, and nothing else."""

import redis

from state_store.archive.policy import ArchivePolicy
from state_store.store import StateStore

from .limited import limited_url
from .served import served
from .talk import TEXT


async def test_a_session_lives_from_its_making_to_its_end_with_the_documented_rights(stage, flush):
    url = limited_url(stage)
    with redis.Redis.from_url(stage.store.url) as admin:
        admin.execute_command("ACL", "LOG", "RESET")
        async with (
            served(stage, redis_url=url, archive_url=stage.archive) as torpor,
            await StateStore.connect(url, archive=stage.archive) as keeper,
        ):
            session = await torpor.create(system=TEXT, labels={"of": "the limited"})
            first = await torpor.turn(
                session.id, "What is 318 + 264?", max_tokens=8, idempotency_key="once"
            )
            assert first.durable
            fork = await torpor.fork(session.id)
            assert (await torpor.turn(fork.id, "And 12 more?", max_tokens=8)).durable
            await torpor.rewind(fork.id, snapshot=first.snapshot)
            await torpor.add_items("limited", [{"a": 1}])
            await torpor.suspend(session.id)
            await flush()
            assert (await torpor.resume(session.id, strict=True)).reason is None
            swept = await keeper.sweep(ArchivePolicy(idle=0, spare=0))
            assert session.id in [one.session_id for one in swept.sessions]
            assert await keeper.residency(session.id) == "archived"
            await flush()
            assert (await torpor.resume(session.id, strict=True)).bytes_read > 0
            assert (await torpor.turn(session.id, "Go on.", max_tokens=8)).usage.reused_tokens > 0
            found = [one.id async for one in torpor.sessions(labels={"of": "the limited"})]
            assert found == [session.id]
            for one in (fork, session):
                await torpor.delete(one.id)
            await torpor.clear_items("limited")
            await keeper.recover(older_than=0)
        refused = {entry[b"object"] for entry in map(_fields, admin.execute_command("ACL", "LOG"))}
    assert refused <= {b"config|get"}  # which only makes `fsync` slower


def _fields(entry):
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
