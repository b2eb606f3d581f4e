"""Workspaces follow their sessions: forks, rewinding, other machines, crashes, deletion."""

import base64
import contextlib
import json

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver

from agent_runtime.errors import FilesUncommitted
from agent_runtime.graph import ask, build_agent
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.messages import Message
from agent_runtime.wire.workspaces import CHUNK, sha256
from agent_runtime.workspaces import SessionWorkspaces
from state_store.layout import LineageKeys, lineage_of
from tests.backends.scripted import call, says, scripted_runtime
from tests.backends.working import files_of, work, writes
from tools.define import define
from tools.effects import Effect, Scope
from tools.errors import WorkspacesDiffer
from tools.files import file_tools
from tools.registry import Registry
from tools.workspaces import Workspaces


@pytest.fixture
async def torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as client:
        yield client


@pytest.fixture
def machine(torpor, tmp_path):
    """Workspaces of one machine by its name; asked for again, those of a new process there."""

    def at(name: str = "here", tools=file_tools) -> SessionWorkspaces:
        return SessionWorkspaces(torpor, Workspaces(tmp_path / name), tools)

    return at


@pytest.fixture
async def session(torpor, machine):
    return await torpor.create(tools=machine().specs())


async def test_branches_have_their_own_files_are_rewound_and_merged(torpor, said, machine, session):
    here = machine()
    await work(torpor, said, here, session.id, ("plan", "one"), ("src/main", "first"))
    left, right = await torpor.fork(session.id), await torpor.fork(session.id)
    await work(torpor, said, here, left.id, ("src/main", "second"))
    await work(torpor, said, here, left.id, ("oops", "!"))
    await work(torpor, said, here, right.id, ("notes", "three"))
    assert await files_of(here, session.id) == {"plan": "one", "src/main": "first"}
    assert await files_of(here, left.id) == {"oops": "!", "plan": "one", "src/main": "second"}

    await torpor.rewind(left.id, turns=2)  # the call, and the answer to its result
    assert await files_of(here, left.id) == {"plan": "one", "src/main": "second"}

    version = (await here.merge(right.id, left.id)).version
    said.scripted += [says({"content": "Merged."})]
    merged = await torpor.turn(right.id, "The other branch is merged.", workspace=version)
    assert merged.snapshot == (await torpor.get(right.id)).head
    both = {"notes": "three", "plan": "one", "src/main": "second"}
    assert await files_of(machine("elsewhere"), right.id) == both
    await work(torpor, said, here, session.id, ("src/main", "third"))
    with pytest.raises(WorkspacesDiffer, match="src/main") as differ:
        await here.merge(right.id, session.id)
    assert differ.value.paths == ["src/main"]
    assert await files_of(here, right.id) == both


async def test_a_session_finds_its_files_on_another_machine(torpor, said, machine, session):
    here = machine()
    path = (await here.open(session.id)).path
    large = bytes(range(256)) * (CHUNK // 128 + 1)  # of three pieces
    (path / "large").write_bytes(large)
    (path / "empty").touch()
    (path / "run").write_text("#!/bin/sh")
    (path / "run").chmod(0o755)
    (path / "link").symlink_to("run")
    version = await here.keep(session.id)
    said.scripted += [says({"content": "I see."})]
    await torpor.turn(session.id, "Look.", workspace=version)

    there = await machine("there").open(session.id)
    assert (there.version, there.note) == (version, None)
    assert (there.path / "large").read_bytes() == large
    assert (there.path / "empty").read_bytes() == b""
    assert (there.path / "run").stat().st_mode & 0o111
    assert (there.path / "link").readlink().name == "run"
    (snapshot,) = await torpor.snapshots(session.id)
    assert snapshot.workspace == version


async def test_what_is_kept_already_is_not_sent_again(torpor, machine, session):
    here, sent = machine(), []
    call_ = torpor._requests.call

    async def counting(method, path, body=None, **options):
        sent.extend(body["pieces"] if path.endswith("/pieces") else [])
        return await call_(method, path, body, **options)

    torpor._requests.call = counting
    path = (await here.open(session.id)).path
    for number in range(10):
        (path / f"{number}").write_text(f"file {number}")
    await here.keep(session.id)
    assert len(sent) == 10
    (path / "copy").write_text("file 3")
    (path / "4").write_text("changed")
    await here.keep(session.id)
    assert len(sent) == 11


async def test_what_no_turn_has_committed_is_put_aside_and_told(
    torpor, said, machine, session, tmp_path
):
    await work(torpor, said, machine(), session.id, ("plan", "one"))
    path = Workspaces(tmp_path / "here" / "of-default").path(session.id)
    (path / "plan").write_text("half done")
    (path / "more").write_text("more")

    opened = await machine().open(session.id)  # as after a crash
    assert (opened.path / "plan").read_text() == "one"
    assert not (opened.path / "more").exists()
    assert opened.note.endswith(f"put aside as {opened.aside}: more, plan")
    kept = Workspaces(tmp_path / "here" / "of-default").fork(opened.aside, "look")
    assert (kept / "more").read_text() == "more"


async def test_a_call_that_was_cut_off_by_a_crash_is_made_once(torpor, said, machine, tmp_path):
    """It may be made again, as the files are what they were before it."""
    sent = tmp_path / "sent"

    def tools(path):
        def append(text: str) -> str:
            """Appends to a file."""
            with (path / "log").open("a") as file:
                file.write(text)
            return "appended"

        return [define(append, effect=Effect.EFFECTFUL, scope=Scope.BRANCH)]

    def send(text: str) -> str:
        """Sends a letter."""
        with sent.open("a") as file:
            file.write(text)
        return "sent"

    letters = Registry([define(send, effect=Effect.EFFECTFUL)])
    dies = [True]

    async def observe(step) -> None:
        if step.kind == "tool" and dies:
            dies.clear()
            raise RuntimeError("killed")

    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "a"}}
    here = machine(tools=tools)
    session = await torpor.create(tools=[*letters.specs(), *here.specs()])
    both = [call("append", "call_a", text="x"), call("send", "call_b", text="y")]
    both[1]["tool_calls"][0]["index"] = 1
    said.scripted += [says(*both, finish="tool_calls")]
    agent = build_agent(torpor, letters, workspaces=here, observer=observe, checkpointer=saver)
    with pytest.raises(RuntimeError, match="killed"):
        await ask(agent, session.id, "Append.", thread=thread)
    assert (tmp_path / "here" / "of-default" / "live" / session.id / "log").read_text() == "x"

    said.scripted += [says({"content": "Done."})]
    again = build_agent(torpor, letters, workspaces=machine(tools=tools), checkpointer=saver)
    steps = (await again.ainvoke(None, thread))["steps"]
    assert [step.text for step in steps] == ["", "appended", "sent", "Done."]
    assert "put aside" in steps[1].notes[-1]
    assert await files_of(machine(tools=tools), session.id) == {"log": "x"}
    assert sent.read_text() == "y"


async def test_calls_that_leave_too_much_are_undone_and_the_model_is_told(
    torpor, said, tmp_path, session
):
    small = Workspaces(tmp_path / "small", most_bytes=10_000)
    workspaces = SessionWorkspaces(torpor, small, file_tools)
    await work(torpor, said, workspaces, session.id, ("plan", "one"))
    said.scripted += [writes("large", "x" * 20_000), says({"content": "I see."})]
    steps = await ask(build_agent(torpor, Registry(), workspaces=workspaces), session.id, "Go on.")
    assert "Its files are as they were before these calls." in steps[1].text
    assert await files_of(SessionWorkspaces(torpor, small, file_tools), session.id) == {
        "plan": "one"
    }


async def test_what_a_session_kept_goes_with_it(torpor, said, machine, session, store, tmp_path):
    here = machine()
    await work(torpor, said, here, session.id, ("plan", "one"))
    fork = await torpor.fork(session.id)
    await files_of(here, fork.id)
    keys = LineageKeys("torpor", lineage_of(session.id))
    await torpor.delete(session.id)
    assert await files_of(machine("there"), fork.id) == {"plan": "one"}
    assert await here.tidy() == len("one")
    assert Workspaces(tmp_path / "here" / "of-default").names() == [fork.id]
    await torpor.delete(fork.id)
    assert not await store._control.redis.exists(keys.held_files)
    await here.tidy()
    assert Workspaces(tmp_path / "here" / "of-default").names() == []


async def test_a_turn_with_files_that_are_not_kept_is_refused(torpor, machine, session):
    with pytest.raises(ApiError) as refused:
        await torpor.turn(session.id, "Go on.", workspace="ab" * 32)
    assert refused.value.code == "files_missing"
    here = machine()
    path = (await here.open(session.id)).path
    (path / "plan").write_text("one")
    files = here._files(here._workspaces.snapshot(session.id))
    with pytest.raises(ApiError) as refused:
        await torpor.files.keep(session.id, files)
    assert refused.value.code == "files_missing"
    with pytest.raises(ApiError) as refused:
        await torpor.files.get(session.id, snapshot=f"snp-{'0' * 16}-{'0' * 16}")
    assert refused.value.status == 400
    for body in (
        {"manifest": {"entries": [{"path": "a", "kind": "folder"}] * 2}},
        {"manifest": {"entries": [
            {"path": "a", "kind": "file", "size": 1 << 40, "sha256": "ab" * 32, "executable": False}
        ]}},
        {"manifest": {"entries": [
            {"path": "a", "kind": "file", "size": 2 << 20, "sha256": "ab" * 32, "executable": False}
        ]}},
    ):  # fmt: skip
        with pytest.raises(ApiError) as refused:
            await torpor._requests.call(
                "POST", f"/v1/sessions/{session.id}/workspace/versions", body
            )
        assert refused.value.status in (400, 422)


async def test_what_tools_have_done_can_be_read(torpor, said, machine, session):
    here = machine()
    await work(torpor, said, here, session.id, ("plan", "one"))
    fork = await torpor.fork(session.id)
    await work(torpor, said, here, fork.id, ("plan", "two"))
    (first,) = await torpor.ledger.of(session.id)
    assert (first.tool, first.state, first.result.text) == (
        "write_file",
        "done",
        "made plan: 1 lines",
    )
    (second,) = await torpor.ledger.of(fork.id)
    assert (second.branch, second.result.text) == (fork.id, "replaced plan: 1 lines")
    assert await torpor.ledger.of(fork.id, lineage=True) == [first, second]


async def test_nobody_tidies_the_files_of_another_tenant(bare_store, said, store, tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(
            scripted_runtime(bare_store.url, said, require_keys=True)
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)

        async def client(tenant):
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant)
            torpor = Torpor("http://scripted", api_key=key, transport=transport)
            return await stack.enter_async_context(torpor)

        acme, again, globex = [await client(name) for name in ("acme", "acme", "globex")]
        root = Workspaces(tmp_path / "shared")
        ours = SessionWorkspaces(acme, root, file_tools)
        session = await acme.create()
        path = (await ours.open(session.id)).path
        (path / "report").write_text("kept")
        version = await ours.keep(session.id)
        (path / "draft").write_text("not kept")
        await SessionWorkspaces(globex, root, file_tools).tidy()
        assert {one.name for one in path.iterdir()} == {"report", "draft"}
        await ours.open(session.id)
        assert (await ours.open(session.id, version)).path == path
        assert {one.name for one in path.iterdir()} == {"report"}
        await acme.delete(session.id)
        await SessionWorkspaces(again, root, file_tools).tidy()  # with another key of the tenant
        assert not path.exists()


async def test_pieces_of_any_number_are_sent_and_read_in_order(torpor, session):
    pieces = [f"{number}".encode() * 1000 for number in range(11)]
    await torpor.files.put(session.id, pieces)
    names = [sha256(piece) for piece in pieces]
    assert await torpor.files.missing(session.id, [*names, "ab" * 32]) == ["ab" * 32]
    assert [piece async for piece in torpor.files.read(session.id, names)] == pieces


@pytest.mark.parametrize("piece", ["!!!", "é", "YWJ", "YW Jj", "YQ==YQ=="])
async def test_a_piece_that_is_no_base64_is_refused(scripted_app, session, piece):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as http:
        place = f"/v1/sessions/{session.id}/workspace/pieces"
        answer = await http.post(place, json={"pieces": ["YWJj", piece]})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "../plan"},
        {"path": "/plan"},
        {"path": "a\0b"},
        {"path": "\ud800"},
        {"size": -5},
        {"size": 1 << 80},
        {"sha256": ""},
        {"sha256": "e" * 63 + "é"},
    ],
)
async def test_files_that_lead_elsewhere_or_are_none_are_refused(scripted_app, session, entry):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as http:
        place = f"/v1/sessions/{session.id}/workspace"
        kept = await http.post(f"{place}/pieces", json={"pieces": ["YWJj"]})
        (name,) = kept.json()["names"]
        file = {"kind": "file", "path": "plan", "sha256": name, "size": 3, "executable": False}
        body = json.dumps({"manifest": {"entries": [{**file, **entry}]}})
        headers = {"Content-Type": "application/json"}
        answer = await http.post(f"{place}/versions", content=body, headers=headers)
        assert answer.status_code in (400, 422), answer.text


async def test_files_that_do_not_agree_with_their_contents_are_not_kept(scripted_app, session):
    mib = 1 << 20
    large = [b"a" * mib, b"b" * 5]
    whole, whole_size = sha256(b"".join(large)), mib + 5
    small = sha256(b"hello")
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as http:
        place = f"/v1/sessions/{session.id}/workspace"
        pieces = [base64.b64encode(piece).decode() for piece in (*large, b"hello")]
        assert (await http.post(f"{place}/pieces", json={"pieces": pieces})).status_code == 200

        async def kept(size, content, chunks):
            file = {"kind": "file", "path": "a", "size": size, "sha256": content}
            manifest = {"entries": [{**file, "executable": False}]}
            body = {"manifest": manifest, "chunks": chunks}
            return (await http.post(f"{place}/versions", json=body)).status_code

        names = [sha256(piece) for piece in large]
        assert await kept(5, small, {}) == 200
        assert await kept(4, small, {}) == 400
        assert await kept(5, "1" * 64, {"1" * 64: [small]}) == 422
        assert await kept(whole_size, whole, {whole: names}) == 200
        assert await kept(whole_size - 1, whole, {whole: names}) == 400
        assert await kept(whole_size, "1" * 64, {"1" * 64: names}) == 400
        assert await kept(whole_size, whole, {whole: [names[0], small]}) == 400


async def test_a_checkpoint_before_tools_has_the_files_of_then(torpor, said, machine, session):
    here = machine()
    agent = build_agent(torpor, Registry(), workspaces=here, checkpointer=InMemorySaver())
    for path, text in (("plan", "one"), ("later", "two")):
        said.scripted += [writes(path, text), says({"content": "Done."})]
        await ask(agent, None if path == "later" else session, "Go on.", thread="a")
    thread = {"configurable": {"thread_id": "a"}}
    states = [one async for one in agent.aget_state_history(thread)]
    first = [one for one in states if one.next == ("tools",)][-1]
    said.scripted += [says({"content": "Done again."})]
    again = await agent.ainvoke(None, first.config)
    assert again["session_id"] != session.id
    assert await files_of(here, again["session_id"]) == {"plan": "one"}


async def test_tools_work_on_the_files_of_the_turn_that_called_them(torpor, said, machine, session):
    """Another client moves the session on before they do."""

    async def meanwhile(step) -> None:
        if step.text == "Done." or step.kind != "model":
            return
        other = machine("other")
        ((await other.open(session.id)).path / "foreign").write_text("not mine")
        version = await other.keep(session.id)
        said.scripted.insert(0, says({"content": "I see."}))
        await torpor.turn(session.id, [Message(role="tool", content="none")], workspace=version)

    here = machine()
    agent = build_agent(torpor, Registry(), workspaces=here, observer=meanwhile)
    said.scripted += [writes("plan", "one"), says({"content": "Done."})]
    asked = {"pending": [Message(role="user", content="Go on.")], "steps": []}
    state = await agent.ainvoke({**asked, "session_id": session.id})
    assert state["session_id"] != session.id
    assert await files_of(here, state["session_id"]) == {"plan": "one"}
    assert await files_of(here, session.id) == {"foreign": "not mine"}


async def test_a_thread_goes_on_with_the_files_of_the_session_that_it_is_given(
    torpor, said, machine, session
):
    here = machine()
    agent = build_agent(torpor, Registry(), workspaces=here, checkpointer=InMemorySaver())

    async def asked(given, *texts: str) -> None:
        said.scripted += [*(writes("plan", one) for one in texts), says({"content": "Done."})]
        await ask(agent, given, "Go on.", thread="a")

    await asked(session, "one")
    await asked(None, "two")
    await torpor.rewind(session.id, turns=2)
    await asked(await torpor.get(session.id))
    assert await files_of(here, session.id) == {"plan": "one"}
    for by_id in (False, True):
        other = await torpor.create(tools=here.specs())
        await asked(other.id if by_id else other)
        assert await files_of(here, other.id) == {}
        assert (await torpor.get(other.id)).head is not None


async def test_a_merge_drops_nothing_that_was_kept_or_done(torpor, said, machine, session):
    here = machine()
    await work(torpor, said, here, session.id, ("plan", "one"))
    other = await torpor.fork(session.id)
    await work(torpor, said, here, other.id, ("notes", "two"))
    path = (await here.open(session.id)).path
    (path / "mine").write_text("three")
    kept = await here.keep(session.id)
    with pytest.raises(FilesUncommitted, match=kept):
        await here.merge(session.id, other.id)
    assert (path / "mine").exists()

    merged = await here.merge(session.id, other.id, kept)
    assert sorted(one.name for one in path.iterdir()) == ["mine", "notes", "plan"]
    said.scripted += [says({"content": "Merged."})]
    await torpor.turn(session.id, "It is merged.", workspace=merged.version)
    assert set(await files_of(machine("there"), session.id)) == {"mine", "notes", "plan"}

    version = await here.keep(session.id)
    (path / "more").write_text("four")
    merged = await here.merge(session.id, other.id, version)
    assert merged.note.endswith(f"put aside as {merged.aside}: more")
