"""`torpor chat` in a terminal, over an endpoint that answers as a test says."""

import asyncio
import threading

import httpx
import pytest

from agent_runtime.sdk import Torpor
from tests.backends.chat_process import Chat
from tests.backends.scripted import call, says, sent


@pytest.fixture
async def torpor(chat_service):
    async with Torpor(chat_service.url) as client:
        yield client


@pytest.fixture
def chat(chat_service, tmp_path):
    def start(*arguments: str) -> Chat:
        return Chat(chat_service.url, *arguments, home=tmp_path)

    return start


async def asked(said, times):
    """Wait until the endpoint was asked so often."""
    async with asyncio.timeout(60):
        while len(said.seen) < times:  # noqa: ASYNC110 (another thread counts)
            await asyncio.sleep(0.01)


async def _until(lines, word):
    async for line in lines:
        yield line
        if word in line:
            return


async def named(torpor, name):
    (view,) = [one async for one in torpor.sessions(labels={"chat": name})]
    return view


async def test_a_chat_is_suspended_by_ctrl_z_and_gone_on_with(chat, said, torpor):
    said.scripted += [
        says({"reasoning_content": "They greet."}, {"content": "Hello "}, {"content": "Ann."}),
        says({"content": "You are Ann."}),
    ]
    with chat("--session", "ann", "--system", "Be kind.", "--tools", "calculator") as first:
        first.prompt("ann")
        first.say("I am Ann.")
        shown = first.prompt("ann")
        assert "They greet." in shown
        assert "Hello Ann." in shown
        assert "reused 0 of 9 prompt tokens · recomputed 0" in shown
        assert "durable: fsync" in shown
        first.press("z")
        code, left = first.end()
        assert code == 0
        assert "suspended, durable: fsync" in left
        assert "--session ann" in left
    with chat("--continue") as second:
        shown = second.prompt("ann")
        assert "user: I am Ann." in shown
        assert "assistant: Hello Ann." in shown
        second.say("Who am I?")
        assert "recomputed 9" in second.prompt("ann")
        second.press("d")
        assert second.end()[0] == 0
    assert sent(said)[0] == ("system", "Be kind.")
    assert sent(said)[1:4:2] == [("user", "I am Ann."), ("user", "Who am I?")]
    assert (await named(torpor, "ann")).tools == ["calculator"]


async def test_ctrl_c_ends_the_turn_and_leaves_the_session_as_it_was(chat, said, torpor):
    slow = threading.Event()
    try:
        with chat("--session", "bob", "--yes") as bob:
            bob.prompt("bob")
            said.scripted.append(says({"content": "One."}))
            bob.say("First.")
            bob.prompt("bob")
            before = (await named(torpor, "bob")).head
            held = says({"content": "Never."})
            held.after = slow
            write = call("write_file", "c", path="plan", content="x")
            said.scripted += [says(write, finish="tool_calls"), held]
            bob.say("Write the plan.")
            bob.until("made plan")
            await asked(said, 3)
            bob.press("c")
            assert "as before your message" in bob.prompt("bob")
            assert (await named(torpor, "bob")).head == before
            slow.set()
            said.scripted += [
                says(call("list_files", "c"), finish="tool_calls"),
                says({"content": "Empty."}),
            ]
            bob.say("What is there?")
            assert "plan" not in bob.until("Empty.")
            bob.prompt("bob")
            bob.say("/quit")
            assert bob.end()[0] == 0
    finally:
        slow.set()
    assert "Write the plan." not in [text for _, text in sent(said)]


async def test_a_person_is_asked_before_code_runs(chat, said):
    code = call("python", "c", code="print('a\u202eb')")
    said.scripted += [
        says(code, finish="tool_calls"),
        says({"content": "Pity."}),
        says(code, finish="tool_calls"),
        says(call("python", "c", code="print(6 * 7)"), finish="tool_calls"),
        says({"content": "So it is."}),
    ]
    with chat("--session", "cid") as cid:
        cid.prompt("cid")
        cid.say("Run it.")
        assert "code: print('a\\u202eb')" in cid.until("[a]lways")
        cid.say("n")
        assert "A person has refused this call of python." in cid.until("Pity.")
        cid.prompt("cid")
        cid.say("Run both.")
        cid.until("[a]lways")
        cid.say("a")
        assert "← python: 42" in cid.until("So it is.")
        cid.prompt("cid")
        cid.say("/suspend")
        assert cid.end()[0] == 0


async def test_ctrl_z_at_a_question_takes_the_message_back_and_leaves(chat, said, torpor):
    said.scripted.append(says(call("shell", "c", command="ls"), finish="tool_calls"))
    with chat("--session", "dan") as dan:
        dan.prompt("dan")
        dan.say("Look.")
        dan.until("[a]lways")
        dan.press("z")
        code, left = dan.end()
    assert code == 0
    assert "as before your message" in left
    assert "nothing was said, so this chat is not kept." in left
    assert [one async for one in torpor.sessions(labels={"chat": "dan"})] == []


@pytest.mark.slow
async def test_a_service_that_goes_away_in_a_turn_and_comes_back_answers(chat, said, chat_service):
    slow = threading.Event()
    held = says({"content": "Never."})
    held.after = slow
    said.scripted += [held, says({"content": "Here I am."})]
    with chat("--session", "eve") as eve:
        eve.prompt("eve")
        eve.say("Are you there?")
        await asked(said, 1)
        chat_service.kill()
        eve.until("Asking again until it is answered.")
        chat_service.start()
        assert "Never." not in eve.until("Here I am.")
        eve.prompt("eve")
        slow.set()
        eve.press("d")
        assert eve.end()[0] == 0


async def test_a_message_whose_runtime_died_is_answered_when_the_person_is_back(
    chat, said, torpor, chat_service
):
    slow = threading.Event()
    held = says({"content": "Never."})
    held.after = slow
    said.scripted += [says({"content": "One."}), held, says({"content": "Two."})]
    try:
        with chat("--session", "jan", "--no-tools") as jan:
            jan.prompt("jan")
            jan.say("First.")
            jan.prompt("jan")
            jan.say("Second.")
            await asked(said, 2)
            chat_service.kill()
        chat_service.start()
        async with asyncio.timeout(60):
            while (await named(torpor, "jan")).turn.state != "interrupted":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with chat("--session", "jan") as jan:
            assert "/again answers it" in jan.prompt("jan")
            jan.say("/again")
            assert "Two." in jan.prompt("jan")
            jan.press("d")
            jan.end()
    finally:
        slow.set()
    assert [text for _, text in sent(said)] == ["First.", "One.", "Second."]


async def test_the_commands_fork_rewind_switch_and_show(chat, said, torpor, tmp_path):
    said.scripted += [says({"content": f"Answer {n}."}) for n in range(4)]
    with chat("--session", "fay", "--no-tools") as fay:
        fay.prompt("fay")
        for text in ("One.", "Two."):
            fay.say(text)
            fay.prompt("fay")
        fay.say("/rewind")
        assert "what came after it is gone" in fay.prompt("fay")
        fay.say("/fork")
        assert "you are in fay/2 now" in fay.prompt("fay/2")
        fay.say("Other.")
        fay.prompt("fay/2")
        fay.say("/tree")
        tree = fay.prompt("fay/2")
        assert "fay/2 ← you are here" in tree
        assert tree.count("tokens") == 2
        fay.say("/sessions")
        listed = fay.prompt("fay/2")
        assert any(line.split()[:2] == ["*", "fay/2"] for line in listed.splitlines()), listed
        fay.say("/switch fay")
        assert "assistant: Answer 0." in fay.prompt("fay")
        fay.say("Third.")
        fay.prompt("fay")
        fay.say("/usage")
        assert "4 turns · reused 0 of 36 prompt tokens" in fay.prompt("fay")
        fay.say("/tools")
        assert "without tools" in fay.prompt("fay")
        fay.say("/help")
        assert "/fork [TOKENS|SNAPSHOT]" in fay.prompt("fay")
        for wrong, words in (
            ("/fork 7", "keeps no state"),
            ("/fork abcdef", "of no snapshot here"),
            ("/rewind 3", "has 2 messages of yours"),
            ("/switch nobody", "no chat 'nobody'"),
            ("/switch", "takes NAME|ID|NUMBER"),
            (f"/export {tmp_path}", "is there already"),
            ("/frok", "no command /frok"),
            ("/again", "nothing has broken off"),
        ):
            fay.say(wrong)
            assert words in fay.prompt("fay").replace("\n", " "), wrong
        fay.press("z")
        assert fay.end()[0] == 0
    fork = await named(torpor, "fay/2")
    rows = [row async for row in torpor.messages(fork.id)][::-1]
    assert [row.text for row in rows] == ["One.", "Answer 0.", "Other.", "Answer 2."]


async def test_what_a_model_says_cannot_command_the_terminal(chat, said):
    said.scripted.append(says({"content": "a\x1b]0;evil\x07b[bold]c\x9bd"}))
    with chat("--session", "gil", "--no-tools") as gil:
        gil.prompt("gil")
        gil.say("Hello.")
        assert "a]0;evilb[bold]cd" in gil.prompt("gil")
        gil.press("d")
        gil.end()


async def test_a_terminal_that_is_closed_suspends_the_chat(chat, said, torpor, chat_service):
    said.scripted.append(says({"content": "Yes."}))
    with chat("--session", "hal", "--no-tools") as hal:
        hal.prompt("hal")
        hal.say("Hello?")
        hal.prompt("hal")
        events = f"{chat_service.url}/v1/sessions/{(await named(torpor, 'hal')).id}/events"
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            client.stream("GET", events) as told,
        ):
            lines = told.aiter_lines()
            await anext(lines)
            assert hal.hang_up() == 0
            assert "event: suspended" in [line async for line in _until(lines, "suspended")]


async def test_a_turn_that_failed_is_gone_on_with(chat, said):
    failing = says({"content": "No."})
    failing.status, failing.body = 400, "{}"
    said.scripted += [
        says(call("calculator", "c", expression="6 * 7"), finish="tool_calls"),
        failing,
        says({"content": "It is 42."}),
    ]
    with chat("--session", "ida") as ida:
        ida.prompt("ida")
        ida.say("How much?")
        ida.until("400")
        ida.prompt("ida")
        ida.say("/again")
        ida.until("It is 42.")
        ida.prompt("ida")
        ida.press("d")
        ida.end()
    assert [role for role, _ in sent(said)] == ["user", "assistant", "tool"]
