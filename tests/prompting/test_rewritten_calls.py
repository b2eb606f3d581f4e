"""What tools did before a history was rewritten: it is done, and files are those of their turns."""

import secrets
import time

import pytest

from agent_runtime.errors import FilesNotKept
from agent_runtime.sessions.effects_abroad import LedgerAbroad
from agent_runtime.sessions.ledger import IMPORTED, StoreLedger
from agent_runtime.wire.messages import Message
from state_store.files import FileSet
from state_store.records import Session
from state_store.store import StateStore
from tools.effects import Effect, Entry, Scope, State
from tools.results import ToolResult

from .desk import Desk

FIRST = "Hm, let me see how many letters that word has.\n</think>\nFirst."
CALLS = f"{FIRST}\n<tool_call>\n<function=calculator>\n</function>\n</tool_call>\n"
SENT = "Hm.\n</think>\nSent it."
SECOND = "Hm.\n</think>\nSecond."


@pytest.fixture
async def store(server):
    async with await StateStore.connect(server.url, prefix=f"t{secrets.token_hex(4)}") as store:
        yield store


@pytest.fixture
def desk(store, server, objects, checkpoints):
    return Desk(store, checkpoints["super"], server.url, objects)


def entry(branch: str, point: str) -> Entry:
    return Entry(
        branch=branch, point=point, position=0, tool="send", arguments_hash="a" * 64,
        effect=Effect.EFFECTFUL, scope=Scope.WORLD, at=time.time(),
    )  # fmt: skip


async def called(store: StateStore, session_id: str) -> Entry:
    """A letter is sent at the session's head."""
    made = entry(session_id, (await store.session(session_id)).head)
    done = made.model_copy(update={"state": State.DONE, "result": ToolResult.of("sent")})
    ledger = StoreLedger(store, durability="memory")
    await ledger.begin(made)
    await ledger.end(done)
    return done


async def known(store: StateStore, session_id: str) -> list[Entry]:
    """What is known to a call at the session's head."""
    head = (await store.session(session_id)).head
    return await StoreLedger(store).inherited(entry(session_id, head))


async def told(desk: Desk, session_id: str, answer: str, **options: object) -> None:
    """The turn after a call."""
    said = Message(role="tool", content="sent")
    await desk.answer(await desk.ask(session_id, said, **options), answer)


async def kept(store: StateStore, session: Session, text: bytes) -> str:
    (name,) = await store.files.put(session, [text])
    return await store.files.put_set(session, FileSet(text, (name,)))


async def files_at(desk: Desk, session_id: str, tokens: int) -> str | None:
    fork = await desk.fork_at(session_id, tokens)
    return (await desk.store.snapshot(fork.head)).files


async def rewritten(desk: Desk, session_id: str, text: str) -> None:
    asked = await desk.ask(session_id, Message(role="user", content=text))
    assert asked.before.rewriting is not None
    await desk.answer(asked, SECOND)


async def test_a_fork_knows_what_was_done_before_its_history_was_rewritten(desk, store):
    session = await desk.create()
    await desk.say(session.id, "Zero.", FIRST)
    before = await store.fork(session.id)
    await desk.say(session.id, "One.", CALLS)
    done = await called(store, session.id)
    await told(desk, session.id, SENT)
    for text in ("Two.", "Three.", "Four."):
        fork = await store.fork(session.id)
        assert await known(store, fork.id) == [done]
        await rewritten(desk, session.id, text)
    fork = await store.fork(session.id)
    assert await known(store, fork.id) == [done]
    await rewritten(desk, before.id, "Other.")
    assert await known(store, before.id) == []  # it has parted before


async def test_a_fork_that_was_rewritten_knows_what_was_done_before_it_parted(desk, store):
    session = await desk.create()
    await desk.say(session.id, "One.", CALLS)
    done = await called(store, session.id)
    await told(desk, session.id, SENT)
    fork = await store.fork(session.id)
    await rewritten(desk, fork.id, "Two.")
    await store.delete_session(session.id)  # and with it the snapshot that the fork began at
    await store.recover(older_than=0)
    assert await known(store, fork.id) == [done]


async def test_a_call_is_made_once_in_a_fork_whose_beginning_was_rewritten(desk, store):
    """From before that, again."""
    session = await desk.create()
    await desk.say(session.id, "Zero.", "</think>First.")
    done = await called(store, session.id)
    await desk.say(session.id, "One.", FIRST)
    fork = await store.fork(session.id)
    await rewritten(desk, fork.id, "Two.")
    await store.delete_session(session.id)
    await store.recover(older_than=0)
    assert await StoreLedger(store).inherited(entry(fork.id, done.point)) == [done]


async def test_an_export_takes_along_what_was_done_before_its_history_was_rewritten(
    desk, store, server, tmp_path
):
    session = await desk.create()
    await desk.say(session.id, "One.", CALLS)
    done = await called(store, session.id)
    await told(desk, session.id, SENT)
    await rewritten(desk, session.id, "Two.")
    path = tmp_path / "session.torpor"
    await store.export_session(session.id, path, effects=LedgerAbroad())
    async with await StateStore.connect(server.url, prefix=f"t{secrets.token_hex(4)}") as another:
        arrived = await another.import_session(path, tenant="default", effects=LedgerAbroad())
        (there,) = await known(another, arrived.id)
        assert (there.branch, there.result) == (IMPORTED, done.result)


@pytest.mark.parametrize("changed", [False, True])
async def test_a_fork_inside_of_what_was_rewritten_has_no_files_of_another_turn(
    desk, store, changed
):
    session = await desk.create()
    first = await kept(store, session, b"one")
    last = await kept(store, session, b"two") if changed else first
    await desk.say(session.id, "Zero.", "</think>First.", workspace=first)
    await desk.say(session.id, "One.", CALLS)
    await told(desk, session.id, SENT, workspace=last)
    await rewritten(desk, session.id, "Two.")
    before, whole, _ = await store.ancestors((await store.session(session.id)).head)
    inside = (before.total_tokens + whole.total_tokens) // 2
    if changed:
        with pytest.raises(FilesNotKept, match="Nothing was made") as refused:
            await files_at(desk, session.id, inside)
        assert refused.value.between == (before.total_tokens, whole.total_tokens)
        assert (refused.value.code, refused.value.param) == ("files_not_kept", "tokens")
        assert len(await store.sessions("default")) == 1
    else:
        assert await files_at(desk, session.id, inside) == first
    assert await files_at(desk, session.id, before.total_tokens) == first
    assert await files_at(desk, session.id, whole.total_tokens) == last
