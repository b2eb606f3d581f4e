"""`torpor store sweep` and `torpor store bring-back`, on a real store and archive."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from writer import RANKS, Writer

from agent_runtime.cli import main
from state_store.objects import ObjectClient
from state_store.store import StateStore


@pytest.fixture
def archive(tmp_path):
    return f"file://{tmp_path}/archive"


@pytest.fixture
def session_id(own_server):
    """Of a session with three pages and a state."""

    async def make():
        client = ObjectClient(own_server.url, timeout=5.0)
        async with await StateStore.connect(own_server.url) as store:
            session = await Writer(store, client, "torpor").session(range(12))
        client.close()
        return session.id

    return asyncio.run(make())


def residency(server, session_id):
    async def look():
        async with await StateStore.connect(server.url) as store:
            return await store.residency(session_id)

    return asyncio.run(look())


def torpor(server, archive, *words):
    return main(["store", words[0], "--redis", server.url, "--archive", archive, *words[1:]])


def out(own_server, archive, session_id):
    async def move():
        async with await StateStore.connect(own_server.url, archive=archive) as store:
            await store.archive_session(session_id)

    asyncio.run(move())


def test_a_sweep_of_what_is_not_idle_moves_nothing(own_server, archive, session_id, capsys):
    assert torpor(own_server, archive, "sweep", "--idle", "3600") == 0
    assert capsys.readouterr().out == (
        "0 sessions, 0 objects (0 bytes) moved; 0 sessions left to other sweepers\n"
    )


def test_a_sweep_over_the_watermark_says_what_it_moved(own_server, archive, session_id, capsys):
    words = ("sweep", "--memory-watermark", "1", "--spare", "0")
    assert torpor(own_server, archive, *words) == 0
    moved, total = capsys.readouterr().out.splitlines()
    stored = RANKS * (3 * (96 + 128) + 160 + 128)
    assert moved == (f"{session_id} (memory): 4 objects moved ({stored} bytes), 0 in use, 0 left")
    assert total.startswith(f"1 sessions, 4 objects ({stored} bytes) moved")
    assert residency(own_server, session_id) == "archived"


def test_a_session_is_brought_back(own_server, archive, session_id, capsys):
    out(own_server, archive, session_id)
    assert torpor(own_server, archive, "bring-back", session_id) == 0
    assert capsys.readouterr().out.startswith("4 objects (")
    assert residency(own_server, session_id) == "stored"


def test_a_check_reads_the_archive_if_it_is_given(own_server, archive, session_id, capsys):
    out(own_server, archive, session_id)
    without = ["store", "check", "--redis", own_server.url]
    assert torpor(own_server, archive, "check") == main(without) == 0
    folder = Path(archive.removeprefix("file://"))
    next(path for path in folder.rglob("*") if path.is_file()).unlink()
    assert main(without) == 0
    capsys.readouterr()
    assert torpor(own_server, archive, "check") == 1
    assert "the archive has lost it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sweep",), "no reason to move anything"),
        (("sweep", "--memory-watermark", "0.9:0.5"), "maxmemory"),
        (("sweep", "--memory-watermark", "100:200"), "memory_low"),
        (("bring-back", f"ses-{'0' * 16}-{'0' * 16}"), "no session"),
        (("bring-back", "nonsense"), "not a session or snapshot id"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(own_server, archive, words, why, capsys):
    assert torpor(own_server, archive, *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("torpor: ")
    assert why in line


@pytest.mark.parametrize("command", ["up", "engine up", "serve"])
def test_a_url_of_no_archive_is_told_at_once(own_server, command, capsys):
    model = ["--model", "models/demo"]
    words = [*command.split(), "--redis", own_server.url, "--archive", "ftp://x/y", *model]
    assert main(words) == 1
    assert "is not an archive's URL" in capsys.readouterr().err
