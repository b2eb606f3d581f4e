"""`torpor store check` says what is wrong, and `--repair` mends it, in words and by exit status."""

from __future__ import annotations

import asyncio

import redis
from vandal import Scene
from writer import Writer

from agent_runtime.cli import main
from state_store.layout import ObjectRef
from state_store.objects import ObjectClient
from state_store.store import StateStore


def test_check_reports_and_repair_mends_what_it_can(own_server, capsys):
    async def build():
        async with await StateStore.connect(own_server.url) as store:
            client = ObjectClient(own_server.url, timeout=5.0)
            writer = Writer(store, client, "torpor")
            session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
            history = await store.ancestors(session.head)
            client.close()
            return Scene(raw, writer, session, history)

    def check(*options):
        code = main(["store", "check", "--redis", own_server.url, *options])
        return code, capsys.readouterr().out.splitlines()

    with redis.Redis.from_url(own_server.url) as raw:
        scene = asyncio.run(build())
        counts = "1 sessions, 2 snapshots, 8 objects (2048 bytes), 0 objects that will expire"
        assert check() == (0, [counts])
        raw.hset(scene.keys.refs, scene.head.id, 7)
        missing = scene.names[0].key(ObjectRef("state", scene.history[0].page_chain[-1]))
        raw.delete(missing)
        counts = "1 sessions, 2 snapshots, 7 objects (1760 bytes), 0 objects that will expire"
        lost = f"problem: object-missing: {missing.decode()}: missing"
        code, lines = check()
        assert (code, lines[0]) == (1, counts)
        assert set(lines[1:3]) == {
            f"problem: references: {scene.head.id}: counts 7 references, has 1",
            lost,
        }
        assert lines[3] == "1 of 2 problems can be mended: add --repair"
        assert lines[4].startswith("1 problems cannot be mended")
        code, lines = check("--repair")
        assert (code, lines[1:3]) == (
            1,
            [f"repaired: references: {scene.head.id}: counts 7 references, has 1", lost],
        )
        code, lines = check("--repair")
        assert (code, lines[1]) == (1, lost)
