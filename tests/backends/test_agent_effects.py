"""The agent loop on a runtime: a person's leave, dry runs, and whose effects are seen."""

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver

from agent_runtime.graph import answer, ask, build_agent, waiting
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.workspaces import sha256
from agent_runtime.workspaces import SessionWorkspaces
from tests.backends.scripted import call, says, scripted_runtime
from tools.approval import Approval, Rule, Verdict
from tools.define import define
from tools.effects import Effect
from tools.files import file_tools
from tools.registry import Registry
from tools.running import Executor
from tools.workspaces import Workspaces


@pytest.fixture
async def torpor(scripted_app):
    transport = httpx.ASGITransport(scripted_app, raise_app_exceptions=False)
    async with Torpor("http://scripted", transport=transport) as client:
        yield client


@pytest.fixture
def send():
    """A tool that sends letters, and to whom it did."""
    sent = []

    def send(to: str) -> str:
        """Sends a letter."""
        sent.append(to)
        return f"sent to {to}"

    return define(send, effect=Effect.EFFECTFUL), sent


def calls_of(*letters: str):
    pieces = [call("send", f"call_{number}", to=to) for number, to in enumerate(letters)]
    for number, piece in enumerate(pieces):
        piece["tool_calls"][0]["index"] = number
    return says(*pieces, finish="tool_calls")


async def test_rules_on_arguments_decide_which_calls_a_person_is_asked_about(torpor, said, send):
    tool, sent = send
    approval = Approval(
        [
            Rule("send", Verdict.ALLOW, {"to": r"\w+@home"}),
            Rule("send", Verdict.REFUSE, {"to": r".*@evil"}, why="Never there."),
            Rule("*", Verdict.ASK),
        ]
    )
    executor = Executor(Registry([tool]), ledger=torpor.ledger, approval=approval)
    agent = build_agent(torpor, executor, checkpointer=InMemorySaver())
    session = await torpor.create(tools=[tool.spec])
    said.scripted += [calls_of("ann@home", "bob@evil", "cat@work", "dan@work")]
    await ask(agent, session.id, "Tell all.", thread="a")
    assert [one["arguments"]["to"] for one in await waiting(agent, thread="a")] == [
        "cat@work",
        "dan@work",
    ]
    assert sent == []
    said.scripted += [says({"content": "Done."})]
    steps = await answer(agent, [True, False], thread="a")
    assert sorted(sent) == ["ann@home", "cat@work"]
    assert "Never there." in steps[1].text
    assert steps[3].text == "A person has refused this call of send."
    done = {one.result.text for one in await torpor.ledger.of(session.id)}
    assert done == {"sent to ann@home", "sent to cat@work"}


async def test_a_dry_run_changes_no_file_and_no_world_and_is_in_no_ledger(
    torpor, said, send, tmp_path
):
    tool, sent = send
    workspaces = SessionWorkspaces(torpor, Workspaces(tmp_path), file_tools)
    session = await torpor.create(tools=[tool.spec, *workspaces.specs()])
    write = call("write_file", "call_b", path="plan", content="one")
    write["tool_calls"][0]["index"] = 1
    said.scripted += [
        says(call("send", "call_a", to="ann"), write, finish="tool_calls"),
        says({"content": "I see."}),
    ]
    executor = Executor(Registry([tool]), ledger=torpor.ledger, dry_run=True)
    steps = await ask(build_agent(torpor, executor, workspaces=workspaces), session.id, "Try.")
    assert [step.text.partition(" would")[0] for step in steps[1:3]] == [
        "dry run: send",
        "dry run: write_file",
    ]
    assert sent == []
    assert [*(await workspaces.open(session.id)).path.iterdir()] == []
    assert await torpor.ledger.of(session.id) == []


async def test_files_effects_and_what_was_said_are_their_tenants_alone(bare_store, store, said):
    async with scripted_runtime(bare_store.url, said, require_keys=True) as app:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        clients = []
        for tenant in ("ann", "ben"):
            await store.tenant(tenant)
            _, key = await store.keys.create(tenant)
            clients.append(Torpor("http://scripted", api_key=key, transport=transport))
        ann, ben = clients
        session, own = await ann.create(), await ben.create()
        await ann.files.put(session.id, [b"the plan"])
        name = sha256(b"the plan")
        assert await ann.files.missing(session.id, [name]) == []
        for peeking in (
            ben.files.get(session.id),
            ben.files.missing(session.id, [name]),
            ben.files.put(session.id, [b"x"]),
            ben.ledger.of(session.id),
            anext(ben.messages(session.id)),
        ):
            with pytest.raises(ApiError) as refused:
                await peeking
            assert refused.value.code == "not_found"
        assert await ben.files.missing(own.id, [name]) == [name]
        with pytest.raises(ApiError) as refused:
            _ = [piece async for piece in ben.files.read(own.id, [name])]
        assert refused.value.code == "files_missing"
        for client in clients:
            await client.__aexit__()


async def test_who_may_only_read_reads_files_too(bare_store, store, said):
    async with scripted_runtime(bare_store.url, said, require_keys=True) as app:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        keys = [(await store.keys.create("ann", role=role))[1] for role in ("use", "read")]
        user, reader = (Torpor("http://scripted", api_key=key, transport=transport) for key in keys)
        session = await user.create()
        await user.files.put(session.id, [b"the plan"])
        name = sha256(b"the plan")
        assert [piece async for piece in reader.files.read(session.id, [name])] == [b"the plan"]
        for changing in (
            reader.files.put(session.id, [b"x"]),
            reader.files.missing(session.id, [name]),  # what is there lives longer then
        ):
            with pytest.raises(ApiError) as refused:
                await changing
            assert refused.value.code == "forbidden"
        for client in (user, reader):
            await client.__aexit__()
