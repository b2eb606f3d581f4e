"""The calls of one message: at the same time, in bounds, with a person's leave."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tools.approval import Approval, Rule, Verdict
from tools.calls import ToolCall
from tools.context import Context, Progress
from tools.define import define
from tools.effects import Effect
from tools.errors import BadDefinition, ToolFailed
from tools.kept import KeptResults
from tools.ledger import MemoryLedger
from tools.registry import Registry
from tools.results import Ending, ToolResult
from tools.running import Executor, Place

PLACE = Place("main", "message-1")


def call(name: str, /, **arguments) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def shell(command: str, folder: str = ".") -> str:
    """Runs."""
    return f"ran {command}"


SHELL = define(shell)


async def test_calls_run_at_the_same_time_and_answer_in_their_order():
    met = asyncio.Barrier(3)

    async def meet(name: str) -> str:
        """Meets."""
        await met.wait()  # passes only if all three are here at once
        for _ in range(3 - int(name)):
            await asyncio.sleep(0)
        return name

    executor = Executor(Registry([define(meet, effect=Effect.PURE)]))
    results = await executor.run([call("meet", name=str(n)) for n in range(3)], PLACE)
    assert [result.text for result in results] == ["0", "1", "2"]


@pytest.mark.parametrize("effect", Effect)
async def test_no_more_calls_of_a_tool_run_at_once_than_it_allows(effect):
    running, most = 0, 0

    async def work(n: int) -> int:
        """Works."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return n

    tool = define(work, effect=effect, at_once=2)
    executor = Executor(Registry([tool]), ledger=MemoryLedger())
    results = await executor.run([call("work", n=n) for n in range(10)], PLACE)
    assert [result.text for result in results] == [str(n) for n in range(10)]
    assert most == 2


@pytest.mark.parametrize("effect", [Effect.PURE, Effect.IDEMPOTENT])
async def test_a_call_that_breaks_is_tried_again_with_the_same_key(effect):
    keys = []

    def fail_twice(context: Context) -> str:
        """Fails."""
        keys.append(context.key)
        if len(keys) < 3:
            raise OSError(f"failure {len(keys)}")
        return "done"

    tool = define(fail_twice, effect=effect, attempts=3)
    (result,) = await Executor(Registry([tool])).run([call("fail_twice")], PLACE)
    assert (result.text, len(set(keys))) == ("done", 1)
    assert result.notes == (
        "attempt 1 of 3: fail_twice failed: OSError: failure 1",
        "attempt 2 of 3: fail_twice failed: OSError: failure 2",
    )


async def test_what_a_tool_says_it_cannot_do_is_not_tried_again():
    tried = []

    def refuse() -> str:
        """Refuses."""
        tried.append(1)
        raise ToolFailed("no")

    tool = define(refuse, effect=Effect.PURE, attempts=5)
    (result,) = await Executor(Registry([tool])).run([call("refuse")], PLACE)
    assert (result.text, len(tried)) == ("no", 1)


async def test_progress_is_heard_with_the_position_of_its_call():
    async def pieces(n: int) -> AsyncIterator[str | Progress]:
        """Gives."""
        yield Progress(f"{n}")
        yield "done"

    heard = []
    executor = Executor(Registry([define(pieces)]))
    await executor.run(
        [call("pieces", n=7), call("pieces", n=8)],
        PLACE,
        listen=lambda position, progress: heard.append((position, progress.text)),
    )
    assert sorted(heard) == [(0, "7"), (1, "8")]


async def test_who_listens_badly_does_not_break_the_call(caplog):
    def listen(position: int, progress: Progress) -> None:
        raise ValueError("deaf")

    def tell(context: Context) -> str:
        """Tells."""
        context.report("half")
        return "done"

    executor = Executor(Registry([define(tell)]))
    (result,) = await executor.run([call("tell")], PLACE, listen=listen)
    assert result.text == "done"
    assert "was not heard" in caplog.text


RULES = Approval(
    [
        Rule("shell", Verdict.ALLOW, {"command": r"git (status|log)"}),
        Rule("shell", Verdict.REFUSE, {"command": r".*\bsudo\b.*"}, why="Work as yourself."),
        Rule("sh*", Verdict.ASK, why="it can do anything"),
    ]
)


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ("git status", Verdict.ALLOW),
        ("git status; reboot", Verdict.ASK),
        ("git status\nreboot", Verdict.ASK),
        ("echo hi\nsudo reboot", Verdict.REFUSE),
        ("ls", Verdict.ASK),
    ],
)
def test_the_first_rule_that_matches_whole_arguments_decides(command, verdict):
    assert RULES.rule("shell", {"command": command}).verdict is verdict


def test_rules_see_values_that_are_no_text_as_json_and_miss_absent_ones():
    approval = Approval([Rule("pay", Verdict.ASK, {"euros": r"\d{3,}"})])
    assert approval.rule("pay", {"euros": 99}).verdict is Verdict.ALLOW
    assert approval.rule("pay", {"euros": 100}).verdict is Verdict.ASK
    assert approval.rule("pay", {}).verdict is Verdict.ALLOW


@pytest.mark.timeout(30)
@pytest.mark.parametrize("verdict", [Verdict.ASK, Verdict.REFUSE])
def test_a_pattern_that_takes_too_long_allows_nothing(verdict, caplog):
    endless, text = r"((a|ab|b)*)*\1", "ab" * 2000 + "c"
    approval = Approval([Rule("pay", Verdict.ALLOW, {"to": endless}), Rule("*", verdict)])
    assert approval.rule("pay", {"to": text}).verdict is verdict
    held = Approval([Rule("pay", verdict, {"to": endless})])
    assert held.rule("pay", {"to": text}).verdict is verdict
    assert "rule of pay: to: the pattern" in caplog.text


@pytest.mark.parametrize(("to", "asked"), [("\uff11\uff10\uff10", True), ("1\n00", False)])
def test_patterns_of_rules_mean_what_they_mean_to_python(to, asked):
    approval = Approval([Rule("pay", Verdict.ASK, {"to": r"(?!0)\d{3}"})])
    assert (approval.rule("pay", {"to": to}).verdict is Verdict.ASK) is asked
    with pytest.raises(BadDefinition, match="rule of pay: euros"):
        Rule("pay", Verdict.ASK, {"euros": "("})


async def test_a_person_is_asked_only_about_calls_that_a_rule_names():
    executor = Executor(Registry([SHELL]), approval=RULES)
    calls = [
        call("shell", command="git status"),
        call("shell", command="ls"),
        call("shell", command="sudo ls"),
        call("shell", command="rm x"),
        call("shell", cmd="rm y"),
    ]
    seen = []

    async def ask(questions):
        seen.extend(questions)
        return [True, False]

    results = await executor.run(calls, PLACE, ask=ask)
    assert [(q.position, q.why) for q in seen] == [
        (1, "it can do anything"),
        (3, "it can do anything"),
    ]
    assert [result.text for result in results[:4]] == [
        "ran git status",
        "ran ls",
        "shell was not run: it is not allowed with these arguments. Work as yourself.",
        "A person has refused this call of shell.",
    ]
    assert [result.ending for result in results[2:]] == [Ending.REFUSED] * 3
    assert executor.questions(calls) == seen


async def test_a_call_that_nobody_was_asked_about_does_not_run():
    executor = Executor(Registry([SHELL]), approval=RULES)
    for allowed in (None, {}, {0: False}):
        (result,) = await executor.run([call("shell", command="ls")], PLACE, allowed=allowed)
        assert result.ending is Ending.REFUSED
    assert result.text == "A person has refused this call of shell."
    (result,) = await executor.run([call("shell", command="ls")], PLACE, allowed={0: True})
    assert result.text == "ran ls"


async def test_a_dry_run_does_nothing_and_says_what_it_would_do():
    done = []

    def send(to: str, context: Context) -> str:
        """Sends."""
        if context.dry_run:
            return f"would reach {to}"
        done.append(to)
        return "sent"

    def look() -> str:
        """Looks."""
        return "seen"

    ledger = MemoryLedger()
    registry = Registry([define(send, dry_runs=True), SHELL, define(look, effect=Effect.PURE)])
    calls = [call("send", to="ann"), call("shell", command="ls"), call("look")]
    dry = await Executor(registry, ledger=ledger, dry_run=True).run(calls, PLACE)
    assert [result.text for result in dry] == [
        "would reach ann",
        'dry run: shell would be called with {"command":"ls"}',
        "seen",
    ]
    assert done == []
    real = await Executor(registry, ledger=ledger).run(calls, PLACE)
    assert ([result.text for result in real[:2]], done) == (["sent", "ran ls"], ["ann"])


async def test_what_was_cut_can_be_read_on():
    text = "\n".join(f"line {n}" for n in range(5000))

    def lines() -> str:
        """Gives."""
        return text

    kept = KeptResults()
    executor = Executor(
        Registry([define(lines, effect=Effect.PURE, max_chars=1000), kept.tool]), kept=kept
    )
    (result,) = await executor.run([call("lines")], PLACE)
    assert len(result.text) < 1300
    name, start = re.search(r'read_result\(name="(\S+)", start=(\d+)\)', result.text).groups()
    assert start == re.search(r"characters ([\d,]+) to", result.text)[1].replace(",", "")
    read = result.text[: result.text.index("[left out")]
    position = int(start)
    while len(read) < len(text):
        (more,) = await executor.run([call("read_result", name=name, start=str(position))], PLACE)
        _, _, part = more.text.partition("\n")
        read += part
        position += len(part)
    assert read == text


def report(who: str) -> str:
    """Reports."""
    return f"of {who} " * 20


def keeping(**limits) -> Executor:
    kept = KeptResults(**limits)
    tool = define(report, effect=Effect.PURE, max_chars=60, rest="Ask for a part.")
    return Executor(Registry([tool, kept.tool]), kept=kept)


def name_in(result: ToolResult) -> str:
    return re.search(r'read_result\(name="(\S+)"', result.text)[1]


async def reports(executor: Executor, *names: str) -> list[ToolResult]:
    return await executor.run([call("report", who=name) for name in names], PLACE)


async def test_the_oldest_kept_results_are_dropped():
    executor = keeping(most_chars=300)
    names = [name_in(one) for one in await reports(executor, "ann", "bob", "eve")]
    read = await executor.run([call("read_result", name=name) for name in names], PLACE)
    assert [one.ending for one in read] == [Ending.FAILED, Ending.DONE, Ending.DONE]
    assert read[0].text == (
        f"there is no {names[0]}, or not any more; call the tool again and ask for less"
    )


async def test_no_result_that_a_history_was_not_told_of_can_be_read():
    executor = keeping()
    (one,) = await reports(executor, "ann")
    (other,) = await reports(keeping(), "bob")  # as after a restart
    assert name_in(one) != name_in(other)
    for guess in ("result-1", "x", name_in(other)):
        (read,) = await executor.run([call("read_result", name=guess)], Place("other", "1"))
        assert read.ending is Ending.FAILED
        assert name_in(one) not in read.text


async def test_a_result_that_cannot_be_kept_is_not_promised():
    (result,) = await reports(keeping(most_chars=100), "ann")
    assert "read_result" not in result.text
    assert "Ask for a part." in result.text
