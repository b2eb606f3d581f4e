"""Files of sessions that were archived come back with them, on whichever runtime can."""

import asyncio
import contextlib

import httpx
import pytest

from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.workspaces import SessionWorkspaces
from state_store.layout import LineageKeys, lineage_of
from tests.backends.scripted import scripted_runtime
from tests.backends.working import files_of, work
from tools.files import file_tools
from tools.workspaces import Workspaces


@pytest.fixture
async def machine_of(tmp_path):
    """Workspaces of one machine by its name, for a runtime of its own."""
    async with contextlib.AsyncExitStack() as stack:

        def at(app, name: str) -> tuple[Torpor, SessionWorkspaces]:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = Torpor("http://scripted", transport=transport)
            stack.push_async_exit(client)
            workspaces = SessionWorkspaces(client, Workspaces(tmp_path / name), file_tools)
            return client, workspaces

        yield at


async def test_files_of_an_archived_session_are_there_again_on_another_runtime(
    bare_store, said, machine_of, tmp_path
):
    archive = f"file://{tmp_path / 'archive'}"
    async with scripted_runtime(bare_store.url, said, archive_url=archive) as one:
        torpor, here = machine_of(one, "here")
        session = await torpor.create(tools=here.specs())
        await work(torpor, said, here, session.id, ("plan", "one " * 500), ("note", "two"))
        store = one.state.store
        await store.archive_session(session.id)
        keys = LineageKeys("torpor", lineage_of(session.id))
        assert await store._control.redis.hlen(keys.cold_files) == 1
    async with scripted_runtime(bare_store.url, said, archive_url=archive) as other:
        torpor, there = machine_of(other, "there")
        await torpor.resume(session.id)
        redis = other.state.store._control.redis
        while await redis.exists(keys.cold_files):  # noqa: ASYNC110 (behind the resume)
            await asyncio.sleep(0.02)
        assert await files_of(there, session.id) == {"note": "two", "plan": "one " * 500}
        await other.state.store.archive_session(session.id, spare=0)
        _, elsewhere = machine_of(other, "elsewhere")  # read where they are
        assert await files_of(elsewhere, session.id) == {"note": "two", "plan": "one " * 500}
        await work(torpor, said, there, session.id, ("note", "three"))
    async with scripted_runtime(bare_store.url, said) as without:
        torpor, last = machine_of(without, "last")
        with pytest.raises(ApiError, match="archive") as refused:
            await last.open(session.id)
        assert refused.value.code == "archive_unavailable"
        await torpor.delete(session.id)


async def test_files_that_are_slow_to_come_back_hold_up_no_resume(
    bare_store, said, machine_of, tmp_path, monkeypatch
):
    archive = f"file://{tmp_path / 'archive'}"
    async with scripted_runtime(bare_store.url, said, archive_url=archive) as one:
        torpor, here = machine_of(one, "here")
        session = await torpor.create(tools=here.specs())
        await work(torpor, said, here, session.id, ("plan", "one " * 500))
        await one.state.store.archive_session(session.id)
    async with scripted_runtime(bare_store.url, said, archive_url=archive) as other:
        begun = []

        async def hang(session):
            begun.append(session.id)
            await asyncio.Event().wait()

        monkeypatch.setattr(other.state.store, "bring_files_back", hang)
        torpor, there = machine_of(other, "there")
        for _ in range(2):
            await torpor.resume(session.id)
        assert begun == [session.id]
        assert await files_of(there, session.id) == {"plan": "one " * 500}
        await torpor.delete(session.id)
