"""A place that is marked is one that other conversations go on from."""

import secrets
import threading
from array import array
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.messages.aside import LONG, aside
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import EMPTY, History
from agent_runtime.turns.boundaries import kept
from agent_runtime.turns.marks import marks_of
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnRequest
from engine.boundaries import Hint, hint_in, hinted
from tests.engine_cpu.server import MODEL
from tests.runtime.talk import PAGE, TEXT


def user(text):
    return Message(role="user", content=text)


def assistant(text):
    return Message(role="assistant", content=text)


def alike(one, other):
    """How many tokens two histories begin with together."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


@pytest.fixture
async def begin(torpor):
    """Makes sessions, which are deleted afterwards."""
    made = []

    async def begin(system):
        made.append((await torpor.create(system=system)).id)
        return made[-1]

    yield begin
    for session in made:
        await torpor.delete(session)


async def test_the_second_conversation_with_a_marked_system_text_computes_only_what_is_its_own(
    torpor, store, begin, continuation
):
    system = f"You are {secrets.token_hex(8)}. {TEXT}"
    first = await torpor.turn(await begin(system), f"0: {TEXT}", marks=[0])
    second = await torpor.turn(await begin(system), f"1: {TEXT}")
    logs = [await store.tokens(result.snapshot) for result in (first, second)]
    assert second.usage.reused_tokens == alike(*logs) // PAGE * PAGE > PAGE
    for result, log in zip((first, second), logs, strict=True):
        prompt = log[: result.usage.prompt_tokens]
        assert result.token_ids == await continuation(prompt, len(result.token_ids))
    (snapshot,) = await torpor.snapshots(first.session_id)
    assert second.usage.reused_tokens in snapshot.boundaries


async def test_a_marked_place_comes_back_from_the_store_where_the_device_has_lost_it(
    torpor, store, begin, continuation, flush
):
    system = f"You are {secrets.token_hex(8)}. {TEXT}"
    origin = (await torpor.create(system=system)).id
    first = await torpor.turn(origin, f"0: {TEXT}", marks=[0])
    await torpor.suspend(origin)
    await flush()
    second = await torpor.turn(await begin(system), f"1: {TEXT}", marks=[0])
    logs = [await store.tokens(result.snapshot) for result in (first, second)]
    assert second.usage.reused_tokens == alike(*logs) // PAGE * PAGE > PAGE
    prompt = logs[1][: second.usage.prompt_tokens]
    assert second.token_ids == await continuation(prompt, len(second.token_ids))
    # It is the second one's own now, whatever becomes of the first.
    await torpor.delete(origin)
    await torpor.suspend(second.session_id)
    await flush()
    third = await torpor.turn(await begin(system), f"2: {TEXT}", marks=[0])
    assert third.usage.reused_tokens == second.usage.reused_tokens
    await flush()
    unmarked = await torpor.turn(await begin(system), f"3: {TEXT}")
    assert unmarked.usage.reused_tokens == 0
    assert (await store.check_integrity()).problems == []


async def test_without_a_mark_it_is_computed_again(torpor, begin):
    system = f"You are {secrets.token_hex(8)}. {TEXT}"
    await torpor.turn(await begin(system), f"0: {TEXT}")
    second = await torpor.turn(await begin(system), f"1: {TEXT}")
    assert second.usage.reused_tokens == 0


async def test_every_mark_of_a_prompt_is_kept(torpor, begin):
    said = []
    for number in range(3):
        said += [user(f"{number}: {TEXT}"), assistant("Good.")]
    said.append(user("Tick."))
    session = await begin(f"You are {secrets.token_hex(8)}.")
    marked = await torpor.turn(session, said, marks=[2, 4])
    (snapshot,) = await torpor.snapshots(session)
    prompt_end = marked.usage.prompt_tokens // PAGE * PAGE
    inside = [boundary for boundary in snapshot.boundaries if boundary < prompt_end]
    assert len(inside) == 2
    # The three parts of the prompt are about as long as each other.
    assert inside[0] < prompt_end / 2 < inside[1]


def prompted(chat, said, system):
    """The session before its first prompt, and the prompt."""
    session = SimpleNamespace(body=SimpleNamespace(meta={"system": system, "tools": []}))
    engine = SimpleNamespace(record=SimpleNamespace(page_size=1))
    before = SimpleNamespace(history=EMPTY, session=session, engine=engine)
    ids = chat.opening(said, system=system, tools=())
    return before, History(array("I", ids), [], 0)


CHAT = ChatFormat(MODEL)
PIECES = ["the ", "<|im_end|>", " \n\n", "é😀", "end.\n", " 12", " <think>", "\n", "x"]


@given(texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), min_size=1))
@settings(derandomize=True, database=None, deadline=None, max_examples=50)
def test_a_mark_is_as_far_as_another_prompt_has_the_same_tokens(texts):
    chat, system = CHAT, "s <|im_end|> y"
    said = [(assistant if n % 2 else user)(f"{n}{text}") for n, text in enumerate(texts)]
    before, asked = prompted(chat, said, system)
    for mark in range(min(len(said), 16)):
        shown = said[:mark] or [user("")]
        same = alike(chat.opening(shown, system=system, tools=()), asked.tokens)
        found = marks_of(chat, before, asked, TurnRequest(messages=said, marks=[mark]))
        assert found == ((same,) if same < len(asked.tokens) - 1 else ())


def test_a_prompt_is_tokenized_once_however_many_marks_it_has(monkeypatch):
    chat = CHAT
    said = [user(TEXT), assistant(TEXT)] * 8 + [user(TEXT)]
    before, asked = prompted(chat, said, None)
    encoded, lengths = chat._encoded, []

    def counted(text):
        lengths.append(len(text))
        return encoded(text)

    monkeypatch.setattr(chat, "_encoded", counted)
    marks_of(chat, before, asked, TurnRequest(messages=said, marks=list(range(1, 17))))
    assert len(lengths) == 1


async def test_only_long_texts_are_tokenized_in_a_thread():
    assert await aside([user("x")], threading.get_ident) == threading.get_ident()
    for long in (user("x" * LONG), Message(role="assistant", content="", reasoning="x" * LONG)):
        assert await aside([long], threading.get_ident) != threading.get_ident()


def test_marks_travel_with_a_request_and_lie_where_states_do():
    class Envelope:
        def __init__(self, fields):
            self.actions = [Action(**action) for action in fields["actions"]]

    class Action:
        def __init__(self, **fields):
            vars(self).update(fields)

    hint = hint_in(Envelope(hinted(1024, [300, 130])))
    assert hint == Hint(1024, (130, 300))
    assert hint.on(128) == Hint(1024, (128, 256))
    assert hint.next_mark(0, 1000) == 130
    assert hint.next_mark(130, 1000) == 300
    assert hint.next_mark(130, 300) is None


def test_of_the_states_that_are_there_the_last_before_each_mark_is_kept():
    states = [2, 4, 6, 8, 9]
    assert kept(states, prompt_pages=8, interval_pages=100) == (8, 9)
    assert kept(states, prompt_pages=8, interval_pages=100, marks=[4, 7]) == (4, 6, 8, 9)
    assert kept(states, prompt_pages=8, interval_pages=100, marks=[1, -3]) == (8, 9)
