"""What a tenant takes: each object once, told apart by how many sessions reach it."""

from __future__ import annotations

import asyncio
import json

from writer import PAYLOAD, RANKS, TENANT, Writer

from agent_runtime.cli import main
from state_store.archive import open_archive
from state_store.archive.archivist import Archivist
from state_store.connection import Control
from state_store.objects import ObjectClient
from state_store.store import StateStore

PAGE_BYTES, STATE_BYTES = (PAYLOAD[kind] * RANKS for kind in ("kv", "state"))
TURN = PAGE_BYTES + STATE_BYTES  # of one page and the state at its end


async def usage(store):
    report = await store.usage_report(TENANT)
    assert report.tenant == TENANT
    return (report.sessions, report.snapshots, report.tokens), (
        report.own_bytes, report.shared_bytes, report.archived_bytes,
    )  # fmt: skip


async def test_a_tenant_that_is_not_there_takes_nothing(store):
    assert await usage(store) == ((0, 0, 0), (0, 0, 0))


async def test_a_fork_shares_what_it_reaches_until_the_other_is_deleted(store, writer):
    session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    assert await usage(store) == ((1, 2, 8), (2 * TURN, 0, 0))
    first = (await store.ancestors(session.head))[0]
    fork = await store.fork(session.id, snapshot_id=first.id)
    assert await usage(store) == ((2, 2, 8), (TURN, TURN, 0))
    await writer.turn(fork.id, [9, 9, 9, 9])
    assert await usage(store) == ((2, 3, 12), (2 * TURN, TURN, 0))
    await store.delete_session(session.id)
    assert await usage(store) == ((1, 2, 8), (2 * TURN, 0, 0))
    await store.delete_session(fork.id)
    assert await usage(store) == ((0, 0, 0), (0, 0, 0))


async def test_sessions_of_two_lineages_with_equal_tokens_share_their_objects(store, writer):
    await writer.session([1, 2, 3, 4])
    await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    assert await usage(store) == ((2, 3, 12), (TURN, TURN, 0))


async def test_turns_without_a_whole_page_count_their_tokens(store, writer):
    await writer.session([1, 2, 3], [4, 5])
    assert await usage(store) == ((1, 2, 5), (TURN, 0, 0))


async def test_what_is_archived_is_told_apart(server, store, writer, prefix, tmp_path):
    session = await writer.session([1, 2, 3, 4], [5, 6, 7, 8])
    first, _ = await store.ancestors(session.head)
    control, client = Control(server.url, timeout=5.0), ObjectClient(server.url, timeout=5.0)
    archivist = Archivist(control, prefix, client, open_archive(f"file://{tmp_path}"))
    await archivist.move_out([first])
    assert await usage(store) == ((1, 2, 8), (2 * TURN, 0, TURN))
    await archivist.bring_back([first])
    assert await usage(store) == ((1, 2, 8), (2 * TURN, 0, 0))
    archivist.close()
    client.close()
    await control.close()


def test_the_command_prints_a_line_of_json_for_each_tenant(own_server, capsys):
    async def build():
        async with await StateStore.connect(own_server.url) as store:
            client = ObjectClient(own_server.url, timeout=5.0)
            await Writer(store, client, "torpor").session([1, 2, 3, 4])
            client.close()

    asyncio.run(build())
    line = {
        "tenant": TENANT, "sessions": 1, "snapshots": 1, "tokens": 4,
        "own_bytes": TURN, "shared_bytes": 0, "archived_bytes": 0,
        "file_bytes": 0, "archived_file_bytes": 0, "effect_bytes": 0, "attached_bytes": 0,
        "note_bytes": 0,
    }  # fmt: skip
    assert main(["store", "usage", "--redis", own_server.url]) == 0
    assert [json.loads(one) for one in capsys.readouterr().out.splitlines()] == [line]
    assert main(["store", "usage", "--redis", own_server.url, "--tenant", TENANT]) == 0
    assert json.loads(capsys.readouterr().out) == line
