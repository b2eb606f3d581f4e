"""Files and records of effects leave with a session's file, and come with it, or nothing does."""

import asyncio
import hashlib
import threading
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI
from safetensors import safe_open
from sealing import TURN, opened
from test_file_sets import contents, keep, turn
from test_portable_damage import with_manifest
from writer import TENANT, commit

from agent_runtime.routes.workspaces import router
from agent_runtime.sessions.effects_abroad import LedgerAbroad
from agent_runtime.sessions.ledger import IMPORTED, StoreLedger
from agent_runtime.sessions.ledger_records import entries_of
from agent_runtime.settings import RuntimeSettings
from state_store import transfers
from state_store.errors import CorruptObject, InvalidExport, LeaseHeld
from state_store.files import BLOB_BYTES, FileSet
from state_store.portable.besides import Besides
from tools.calls import ToolCall
from tools.define import define
from tools.effects import Effect, Entry, Scope
from tools.registry import Registry
from tools.results import Ending
from tools.running import Executor, Place
from tools.workspaces import File, Manifest

ABROAD = LedgerAbroad()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.torpor"


@pytest.fixture
async def another(server, prefix):
    """Another store on the same server."""
    async with await opened(server, f"{prefix}-b", None) as store:
        yield store


@pytest.fixture
def count():
    """A tool that counts, and how often it was called."""
    calls = []

    def send(what: str) -> str:
        """Sends."""
        calls.append(what)
        return f"sent {what}, number {len(calls)}"

    return define(send, effect=Effect.EFFECTFUL), calls


async def called(store, tool, session, what: str, point: str | None = None):
    ledger = StoreLedger(store, durability="memory")
    call = ToolCall(name="send", arguments={"what": what})
    place = Place(session.id, point or (await store.session(session.id)).head)
    (result,) = await Executor(Registry([tool]), ledger=ledger).run([call], place)
    return result


async def test_files_and_effects_go_along(writer, another, path, count):
    store, (tool, calls) = writer.store, count
    session = await writer.session()
    first = await turn(writer, session, range(8), await keep(store, session, b"one", b"two"))
    await called(store, tool, session, "a letter")
    second = await turn(writer, session, range(8))
    third = await turn(writer, session, range(8), await keep(store, session, b"one", b"", b"3"))
    await called(store, tool, session, "a parcel")
    fork = await store.fork(session.id, snapshot_id=second.id)
    await called(store, tool, fork, "a note")  # at a snapshot of the session's own history
    await turn(writer, fork, range(9))
    await called(store, tool, fork, "a card")

    await store.export_session(session.id, path, effects=ABROAD)
    with safe_open(path, framework="np") as file:
        assert file.metadata()["version"] == "2"
    taken = await another.import_session(path, tenant="elsewhere", effects=ABROAD)
    history = await another.ancestors(taken.head)
    wanted = [[b"one", b"two"], [b"one", b"two"], [b"one", b"", b"3"]]
    assert [await contents(another, taken, one) for one in history] == wanted
    assert [one.file_bytes for one in history] == [one.file_bytes for one in (first, second, third)]
    assert (await another.check_integrity()).problems == []

    assert calls == ["a letter", "a parcel", "a note", "a card"]
    for what, number in (("a letter", 1), ("a parcel", 2)):
        result = await called(another, tool, taken, what)
        assert f"sent {what}, number {number}" in result.text
        assert result.notes[-1] == f"its result is that of branch {IMPORTED}"
    again = await another.fork(taken.id, snapshot_id=history[0].id)
    assert "number 1" in (await called(another, tool, again, "a letter")).text
    assert len(calls) == 4
    await called(another, tool, again, "a parcel")  # which happened after that
    await called(another, tool, taken, "a card")  # which a branch did that was not exported
    await called(another, tool, taken, "a note")
    assert calls[4:] == ["a parcel", "a card", "a note"]

    # Once more, from where it was imported.
    path.unlink()
    await another.export_session(taken.id, path, effects=ABROAD)
    back = await store.import_session(path, tenant=TENANT, effects=ABROAD)
    assert "number 1" in (await called(store, tool, back, "a letter")).text
    assert await contents(store, back, await store.snapshot(back.head)) == wanted[2]


async def test_nobody_writes_an_imported_session_while_its_files_come(
    writer, another, path, monkeypatch
):
    session = await writer.session()
    await turn(writer, session, range(8), await keep(writer.store, session, b"one"))
    await writer.store.export_session(session.id, path)
    take = transfers.take_files

    async def take_slowly(files, empty, *rest):
        (listed,) = await another.sessions("elsewhere")  # anybody may find it there
        with pytest.raises(LeaseHeld):
            await another.acquire(listed.id, ttl=30, owner="somebody")
        return await take(files, empty, *rest)

    monkeypatch.setattr(transfers, "take_files", take_slowly)
    taken = await another.import_session(path, tenant="elsewhere")
    assert await contents(another, taken, await another.snapshot(taken.head)) == [b"one"]


async def test_what_is_not_known_to_have_ended_stays_unknown(writer, another, path, count):
    def lost(what: str) -> str:
        """Sends."""
        raise OSError("the line is dead")

    session = await writer.session(range(8))
    await called(writer.store, define(lost, name="send"), session, "a letter")
    await writer.store.export_session(session.id, path, effects=ABROAD)
    taken = await another.import_session(path, tenant=TENANT, effects=ABROAD)
    tool, calls = count
    assert (await called(another, tool, taken, "a letter")).ending is Ending.UNKNOWN
    assert calls == []


async def test_merged_turns_keep_their_last_files_and_all_effects(writer, another, path, count):
    store, (tool, calls) = writer.store, count
    session = await writer.session()
    await turn(writer, session, range(8), await keep(store, session, b"unmerged"))
    await called(store, tool, session, "a letter")
    second = await turn(writer, session, range(8), await keep(store, session, b"two"))
    await turn(writer, session, range(8))
    await store.export_session(session.id, path, since=second.id, effects=ABROAD)
    taken = await another.import_session(path, tenant=TENANT, effects=ABROAD)
    history = await another.ancestors(taken.head)
    assert [await contents(another, taken, one) for one in history] == [[b"two"], [b"two"]]
    assert b"unmerged" not in path.read_bytes()
    assert "number 1" in (await called(another, tool, taken, "a letter")).text
    assert calls == ["a letter"]


async def test_an_encrypted_tenants_files_and_effects_go_to_another(author, another, path, count):
    store, (tool, calls) = author.store, count
    session = await author.session("ann", TURN)
    draft = await author.draft(session.id, TURN)
    await author.put(draft)
    draft = replace(draft, files=await keep(store, session, b"the plan", b""))
    await commit(store, draft)
    await called(store, tool, session, "a letter")
    await store.export_session(session.id, path, effects=ABROAD)
    for there, tenant in ((another, TENANT), (store, "ben")):
        taken = await there.import_session(path, tenant=tenant, effects=ABROAD)
        head = await there.snapshot(taken.head)
        assert await contents(there, taken, head) == [b"the plan", b""]
        assert head.file_bytes >= len(b"the plan")
        assert "number 1" in (await called(there, tool, taken, "a letter")).text
    assert calls == ["a letter"]


async def test_without_any_the_file_is_one_of_the_first_version(writer, path):
    session = await writer.session(range(8))
    await writer.store.export_session(session.id, path, effects=ABROAD)
    with safe_open(path, framework="np") as file:
        assert file.metadata()["version"] == "1"
        assert "contents" not in file.keys()  # noqa: SIM118


async def test_damage_is_found_and_leaves_nothing(writer, another, path, count):
    session = await writer.session()
    await turn(writer, session, range(8), await keep(writer.store, session, b"the plan"))
    await called(writer.store, count[0], session, "a letter")
    await writer.store.export_session(session.id, path, effects=ABROAD)
    whole = path.read_bytes()
    for place in (whole.index(b"the plan"), whole.index(b"number 1"), whole.index(b"body", 5000)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InvalidExport, match="Nothing was imported"):
            await another.import_session(path, tenant=TENANT, effects=ABROAD)
        assert await another.sessions(TENANT) == []
    assert (await another.check_integrity()).problems == []


async def test_a_second_record_of_one_effect_is_refused(writer, another, path, count, monkeypatch):
    session = await writer.session(range(8))
    await called(writer.store, count[0], session, "a letter")
    rows = Besides.effect_rows.fget
    monkeypatch.setattr(Besides, "effect_rows", property(lambda self: rows(self) * 2))
    await writer.store.export_session(session.id, path, effects=ABROAD)
    with pytest.raises(InvalidExport, match=r"two records are of one effect.*Nothing was imported"):
        await another.import_session(path, tenant=TENANT, effects=ABROAD)
    assert await another.sessions(TENANT) == []


async def test_a_file_with_what_is_no_record_is_refused(writer, another, path, monkeypatch):
    session = await writer.session(range(8))
    monkeypatch.setattr(LedgerAbroad, "leaving", lambda *_: [b"none"])
    await writer.store.export_session(session.id, path, effects=ABROAD)
    with pytest.raises(InvalidExport, match="a record of an effect is none"):
        await another.import_session(path, tenant=TENANT, effects=ABROAD)
    assert await another.sessions(TENANT) == []


async def test_what_else_goes_wrong_is_not_told_of_a_record(
    writer, another, path, count, monkeypatch
):
    session = await writer.session(range(8))
    await called(writer.store, count[0], session, "a letter")
    await writer.store.export_session(session.id, path, effects=ABROAD)

    async def fails(*_):
        raise ValueError("of another kind")

    monkeypatch.setattr(another.effects, "replace", fails)
    with pytest.raises(ValueError, match=r"^of another kind$"):
        await another.import_session(path, tenant=TENANT, effects=ABROAD)
    assert await another.sessions(TENANT) == []


async def test_an_export_that_is_cancelled_does_not_wait_for_a_content(writer, path, monkeypatch):
    session = await writer.session()
    await turn(writer, session, range(8), await keep(writer.store, session, b"the plan"))
    begun, over = asyncio.Event(), asyncio.Event()

    async def hangs(*_):
        begun.set()
        await over.wait()
        return b"the plan"

    monkeypatch.setattr(writer.store.files, "get", hangs)
    exporting = asyncio.create_task(writer.store.export_session(session.id, path))
    await begun.wait()
    exporting.cancel()
    done, _ = await asyncio.wait([exporting], timeout=20)
    over.set()
    assert done
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert not path.exists()


def test_a_content_is_not_waited_for_once_the_loop_has_ended():
    loop = asyncio.new_event_loop()
    besides = loop.run_until_complete(Besides.gather(None, None, [], [b"an effect"]))
    digest = hashlib.sha256(b"an effect").hexdigest()
    with pytest.raises(InterruptedError):
        besides.read(digest, threading.Event())
    for _ in range(3):  # what it has begun is cancelled, too
        loop.run_until_complete(asyncio.sleep(0))
    assert not asyncio.all_tasks(loop)
    loop.close()


@pytest.mark.parametrize(
    "made",
    [
        lambda value: b"",
        lambda value: b"\xc1",
        lambda value: value[:-1],
        lambda value: value + b"x",
        lambda value: value.replace(b"imported", b"somebody"),
        lambda value: value.replace(b"snp-", b"snp="),
        lambda value: value.replace(b"position", b"Position"),
    ],
)
async def test_what_is_no_record_is_refused(writer, count, made):
    session = await writer.session(range(8))
    await called(writer.store, count[0], session, "a letter")
    history = await writer.store.ancestors(session.head)
    ids = {one.id: one.id for one in history}
    values = await writer.store.effects.all(session.id)
    (value,) = ABROAD.leaving(values, session, history, ids)
    assert ABROAD.arriving(value, ids)[1] == value
    with pytest.raises(ValueError):  # noqa: PT011
        ABROAD.arriving(made(value), ids)


async def test_calls_that_do_the_same_leave_in_the_order_they_were_started(writer):
    session = await writer.session(range(8))
    ledger = StoreLedger(writer.store, durability="memory")
    begun = [
        Entry(
            branch=session.id, point=session.head, position=place, tool="send",
            arguments_hash="0" * 64, effect=Effect.EFFECTFUL, scope=Scope.WORLD, at=float(at),
        )
        for at, place in enumerate((2, 0, 3, 1))
    ]  # fmt: skip
    for one in begun:
        await ledger.begin(one)
    history = await writer.store.ancestors(session.head)
    ids = {one.id: one.id for one in history}
    values = await writer.store.effects.all(session.id)
    for order in (values, values[::-1]):
        (value,) = ABROAD.leaving(order, session, history, ids)
        assert [one.position for one in entries_of([value])] == [2, 0, 3, 1]


def needs_a_large_content(manifest):
    manifest["contents"][manifest["files"][0]["needs"][0]]["size"] = BLOB_BYTES + 1


def repeats_a_body(manifest):
    manifest["contents"][manifest["files"][0]["body"]]["size"] = 64 << 20
    for one in manifest["files"]:
        one["body"] = manifest["files"][0]["body"]


MULTIPLIED = {
    "needs a content twice": lambda m: m["files"][0].update(needs=[1] * 100),
    "1 validation error": lambda m: m["files"][0].update(needs=[1] * 40_000),
    "or with none": lambda m: m["files"].append(m["files"][0]),
    "content stands in it twice": lambda m: m["contents"].append(m["contents"][1]),
    "repeats bodies": repeats_a_body,
    f"needs a content of more than {BLOB_BYTES} bytes": needs_a_large_content,
}


@pytest.mark.parametrize("why", MULTIPLIED)
async def test_a_small_file_that_would_become_many_sets_of_files_is_refused(
    writer, another, path, why
):
    store, session = writer.store, await writer.session()
    for content in (b"one", b"two", b"three"):
        await turn(writer, session, range(8), await keep(store, session, content))
    await store.export_session(session.id, path, effects=ABROAD)
    path.write_bytes(with_manifest(path.read_bytes(), lambda m: MULTIPLIED[why](m) and None))
    with pytest.raises(InvalidExport, match=why):
        await another.import_session(path, tenant=TENANT, effects=ABROAD)
    assert await another.sessions(TENANT) == []


async def test_files_of_the_host_that_an_imported_session_names_are_not_read(
    writer, path, tmp_path
):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    entry = File.model_construct(path="x", size=11, sha256=f"/{secret}", executable=False)
    hostile = Manifest.model_construct(entries=(entry,)).model_dump_json()
    store, session = writer.store, await writer.session()
    name = await store.files.put_set(session, FileSet(f'{{"manifest":{hostile}}}'.encode(), ()))
    await turn(writer, session, range(8), name)
    await store.export_session(session.id, path, effects=ABROAD)
    imported = await store.import_session(path, tenant="victim", effects=ABROAD)
    app = FastAPI()
    app.include_router(router)
    app.state.store = store
    app.state.settings = RuntimeSettings(redis_url="redis://", model_dir=tmp_path, tenant="victim")
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://runtime") as client:
        with pytest.raises(CorruptObject, match="cannot be read"):
            await client.get(f"/v1/sessions/{imported.id}/workspace")
