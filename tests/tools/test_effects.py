"""No effect happens twice in a branch, whatever dies; forks know what happened before them."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.tools.counting import CALL, PLACE, POINTS, counted, counting_tool
from tools.calls import ToolCall
from tools.define import define
from tools.effects import Effect, Entry, Repeat, Scope, State, arguments_hash
from tools.errors import LedgerDamaged, LedgerHeld, ToolFailed
from tools.ledger import FileLedger, MemoryLedger
from tools.registry import Registry
from tools.results import Ending, FilePart, ToolResult
from tools.running import Executor, Place
from tools.tool import Tool

ROOT = Path(__file__).parents[2]
EFFECTS = (Effect.IDEMPOTENT, Effect.EFFECTFUL)


@pytest.fixture(params=["memory", "file"])
def ledger(request, tmp_path):
    if request.param == "memory":
        yield MemoryLedger()
        return
    with FileLedger(tmp_path / "ledger") as opened:
        yield opened


async def run_one(tool: Tool, ledger, place=PLACE, call=CALL, **options) -> ToolResult:
    (result,) = await Executor(Registry([tool]), ledger=ledger, **options).run([call], place)
    return result


def killed_at(point: str, folder: Path, effect: Effect) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.tools.counting", folder, effect, point],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
async def test_an_idempotent_effect_happens_exactly_once_wherever_its_process_dies(point, tmp_path):
    killed_at(point, tmp_path, Effect.IDEMPOTENT)
    for _ in range(2):
        with FileLedger(tmp_path / "ledger") as ledger:
            result = await run_one(counting_tool(tmp_path, Effect.IDEMPOTENT), ledger)
        assert (result.ending, result.text) == (Ending.DONE, "one more of sheep")
        assert counted(tmp_path) == 1


@pytest.mark.parametrize(
    ("point", "happened", "ending"),
    [
        (POINTS[0], 1, Ending.DONE),  # by the second process: the first had not begun
        (POINTS[1], 0, Ending.UNKNOWN),
        (POINTS[2], 1, Ending.UNKNOWN),
        (POINTS[3], 1, Ending.UNKNOWN),
        (POINTS[4], 1, Ending.DONE),
    ],
)
async def test_an_effect_that_nobody_saw_the_end_of_is_unknown_and_never_repeated(
    point, happened, ending, tmp_path
):
    killed_at(point, tmp_path, Effect.EFFECTFUL)
    for _ in range(2):
        with FileLedger(tmp_path / "ledger") as ledger:
            result = await run_one(counting_tool(tmp_path, Effect.EFFECTFUL), ledger)
        assert result.ending is ending
        assert counted(tmp_path) == happened
        if ending is Ending.UNKNOWN:
            assert "whether it did its work is not known" in result.text


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_call_is_not_made_again_in_its_branch(effect, ledger, tmp_path):
    tool = counting_tool(tmp_path, effect)
    results = [await run_one(tool, ledger) for _ in range(3)]
    assert counted(tmp_path) == 1
    assert {result.text for result in results} == {"one more of sheep"}
    assert results[1].notes == ("it was called before in this branch, and is not called again",)


@pytest.mark.parametrize("effect", EFFECTS)
async def test_another_call_of_the_same_in_the_same_branch_is_another_effect(
    effect, ledger, tmp_path
):
    tool = counting_tool(tmp_path, effect)
    for point in ("message-1", "message-2"):
        await run_one(tool, ledger, Place("main", point))
    changed = ToolCall(name="count", arguments={"what": "goats"})
    await run_one(tool, ledger, PLACE, changed)
    executor = Executor(Registry([tool]), ledger=ledger)
    await executor.run([CALL, CALL], Place("main", "message-3"))
    assert counted(tmp_path) == 5


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_fork_inherits_what_happened_before_it_and_does_not_repeat_it(
    effect, ledger, tmp_path
):
    tool = counting_tool(tmp_path, effect)
    await run_one(tool, ledger)
    await ledger.fork("fork", "main")
    await ledger.fork("fork of fork", "fork")
    same = await run_one(tool, ledger, Place("fork", PLACE.point))
    assert (same.text, same.notes) == ("one more of sheep", ("its result is that of branch main",))
    later = await run_one(tool, ledger, Place("fork of fork", "message-7"))
    await ledger.fork("last", "fork of fork")
    last = await run_one(tool, ledger, Place("last", "message-8"))
    assert (last.text, last.notes) == (later.text, later.notes)  # taken from where it happened
    assert later.text == (
        "[count did this before, and did not do it again. Its result was:]\none more of sheep"
    )
    assert counted(tmp_path) == 1


@pytest.mark.parametrize("effect", EFFECTS)
async def test_what_happens_after_a_fork_is_not_inherited(effect, ledger, tmp_path):
    tool = counting_tool(tmp_path, effect)
    await ledger.fork("fork", "main")
    await run_one(tool, ledger, Place("main", "message-1"))
    await run_one(tool, ledger, Place("fork", "message-2"))
    await run_one(tool, ledger, Place("fork", "message-1"))  # nor if it is called at the same point
    assert counted(tmp_path) == 3


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_policy_is_asked_before_a_fork_repeats_an_effect_which_then_happens_once_in_it(
    effect, ledger, tmp_path
):
    asked = []

    async def again(repeated):
        asked.append(repeated)
        return Repeat.RUN

    tool = counting_tool(tmp_path, effect)
    await run_one(tool, ledger)
    await ledger.fork("fork", "main")
    for _ in range(2):
        await run_one(tool, ledger, Place("fork", PLACE.point), policy=again)
    assert counted(tmp_path) == 2  # another key in another branch
    (only,) = asked
    assert (only.tool, only.arguments, only.same_branch) == ("count", {"what": "sheep"}, False)
    assert (only.earlier.branch, only.earlier.state) == ("main", State.DONE)


async def test_a_policy_can_refuse_and_one_that_fails_refuses(ledger, tmp_path):
    async def refuse(repeated):
        return Repeat.REFUSE

    async def fail(repeated):
        raise OSError("nobody is there")

    tool = counting_tool(tmp_path, Effect.EFFECTFUL)
    await run_one(tool, ledger)
    await ledger.fork("fork", "main")
    for policy in (refuse, fail):
        result = await run_one(tool, ledger, Place("fork", "message-2"), policy=policy)
        assert result.ending is Ending.REFUSED
        assert result.text == "count was not run: it did this before this branch began."
    assert counted(tmp_path) == 1


async def test_an_unknown_effect_is_repeated_only_where_a_policy_says_so(ledger, tmp_path):
    def lose(what: str) -> str:
        """Loses."""
        (tmp_path / f"done-{counted(tmp_path)}").touch()
        raise OSError("connection lost")

    tool = define(lose, name="count")
    lost = await run_one(tool, ledger)
    assert lost.ending is Ending.BROKEN
    assert lost.text.endswith(
        "Whether it did its work is not known: look before you call it again."
    )
    assert (await run_one(tool, ledger)).ending is Ending.UNKNOWN
    await ledger.fork("fork", "main")
    assert (await run_one(tool, ledger, Place("fork", "2"))).ending is Ending.UNKNOWN
    assert counted(tmp_path) == 1

    async def it_did_not_happen(repeated):
        assert repeated.earlier.state is State.UNKNOWN
        return Repeat.RUN

    working = counting_tool(tmp_path, Effect.EFFECTFUL)
    result = await run_one(working, ledger, policy=it_did_not_happen)
    assert (result.ending, counted(tmp_path)) == (Ending.DONE, 2)


async def test_what_forks_with_the_session_is_no_effect_on_other_branches(ledger, tmp_path):
    tool = replace(counting_tool(tmp_path, Effect.EFFECTFUL), scope=Scope.BRANCH)
    await run_one(tool, ledger)
    await ledger.fork("fork", "main")
    await run_one(tool, ledger, Place("fork", PLACE.point))
    await run_one(tool, ledger, Place("fork", PLACE.point))
    assert counted(tmp_path) == 2


async def test_calls_on_what_was_restored_are_made_again_and_those_on_the_world_are_not(
    ledger, tmp_path
):
    restored = replace(PLACE, restored=True)
    shared = counting_tool(tmp_path, Effect.EFFECTFUL)
    own = replace(shared, scope=Scope.BRANCH)
    for made in (1, 2, 3):
        result = await run_one(own, ledger, restored)
        assert (result.ending, result.notes, counted(tmp_path)) == (Ending.DONE, (), made)
    assert "called before" in (await run_one(own, ledger)).notes[0]
    assert "called before" in (await run_one(shared, ledger, restored)).notes[0]
    assert counted(tmp_path) == 3


async def test_a_call_that_died_is_made_again_on_what_was_restored(tmp_path):
    killed_at(POINTS[2], tmp_path, Effect.EFFECTFUL)
    tool = replace(counting_tool(tmp_path, Effect.EFFECTFUL), scope=Scope.BRANCH)
    with FileLedger(tmp_path / "ledger") as ledger:
        result = await run_one(tool, ledger, replace(PLACE, restored=True))
        assert (result.ending, counted(tmp_path)) == (Ending.DONE, 2)
        assert (await run_one(tool, ledger)).notes != ()


async def test_an_executor_with_more_tools_keeps_its_rules_and_its_ledger(ledger, tmp_path):
    tool = counting_tool(tmp_path, Effect.EFFECTFUL)
    executor = Executor(Registry(), ledger=ledger).asking_first(["count"]).having([tool])
    (asked,) = executor.questions([CALL])
    (result,) = await executor.run([CALL], PLACE, allowed={asked.position: True})
    assert result.ending is Ending.DONE
    assert (await run_one(tool, ledger)).notes != ()


async def test_what_a_tool_says_it_did_not_do_is_known(ledger):
    calls = []

    def refuse(what: str) -> str:
        """Refuses."""
        calls.append(what)
        raise ToolFailed("ask tomorrow")

    for _ in range(2):
        result = await run_one(define(refuse, name="count"), ledger)
        assert (result.text, result.ending) == ("ask tomorrow", Ending.FAILED)
    assert calls == ["sheep"]


async def test_calls_that_run_now_are_not_made_a_second_time(ledger, tmp_path):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(what: str) -> str:
        """Waits."""
        begun.set()
        await go_on.wait()
        return "done"

    tool = define(wait, name="count")
    first = asyncio.create_task(run_one(tool, ledger))
    await begun.wait()
    assert (await run_one(tool, ledger)).ending is Ending.UNKNOWN
    go_on.set()
    assert (await first).text == "done"
    assert (await run_one(tool, ledger)).text == "done"  # what was unknown is known by now


async def test_what_is_done_stays_done(ledger):
    done = Entry(
        branch="main", point="1", position=0, tool="count", arguments_hash="0" * 64, at=0.0,
        effect=Effect.EFFECTFUL, scope=Scope.WORLD, state=State.DONE, result=ToolResult.of("one"),
    )  # fmt: skip
    await ledger.end(done)
    await ledger.end(done.model_copy(update={"state": State.UNKNOWN, "result": None}))
    assert await ledger.find(done) == done


@pytest.mark.parametrize("name", ["", "0" * 63, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_what_names_arguments_is_a_hash(name):
    with pytest.raises(ValidationError, match="arguments_hash"):
        Entry(
            branch="main", point="1", position=0, tool="count", arguments_hash=name, at=0.0,
            effect=Effect.EFFECTFUL, scope=Scope.WORLD,
        )  # fmt: skip


class Broken(MemoryLedger):
    def __init__(self, *fails):
        super().__init__()
        self.fails = fails

    async def begin(self, entry):
        if "begin" in self.fails:
            raise OSError("disk full")
        return await super().begin(entry)

    async def end(self, entry):
        if "end" in self.fails:
            raise OSError("disk full")
        await super().end(entry)


async def test_nothing_happens_that_cannot_be_recorded(tmp_path):
    tool = counting_tool(tmp_path, Effect.EFFECTFUL)
    result = await run_one(tool, Broken("begin"))
    assert (result.ending, counted(tmp_path)) == (Ending.REFUSED, 0)
    assert result.notes == ("the ledger failed: disk full",)
    ledger = Broken("end")
    result = await run_one(tool, ledger)
    assert result.text == "one more of sheep"
    assert result.notes == ("the ledger does not know that it ended: disk full",)
    assert (await run_one(tool, ledger)).ending is Ending.UNKNOWN
    assert counted(tmp_path) == 1


async def test_a_ledger_in_a_file_knows_everything_when_it_is_opened_again(tmp_path):
    tool = counting_tool(tmp_path, Effect.EFFECTFUL)
    path = tmp_path / "ledger"
    with FileLedger(path) as ledger:
        await run_one(tool, ledger)
        await ledger.fork("fork", "main")
        await run_one(tool, ledger, Place("main", "message-2"))
    with FileLedger(path) as ledger:
        assert (await run_one(tool, ledger)).text == "one more of sheep"
        inherited = await run_one(tool, ledger, Place("fork", "message-1"))
        assert inherited.notes == ("its result is that of branch main",)
        assert counted(tmp_path) == 2


@pytest.mark.parametrize("cut", [1, 10, 200])
async def test_a_line_that_a_crash_has_cut_off_never_counted(cut, tmp_path):
    path = tmp_path / "ledger"
    tool = counting_tool(tmp_path, Effect.IDEMPOTENT)
    with FileLedger(path) as ledger:
        await run_one(tool, ledger)
    path.write_bytes(path.read_bytes()[:-cut])
    with FileLedger(path) as ledger:
        assert (await run_one(tool, ledger)).ending is Ending.DONE
    with FileLedger(path) as ledger:
        assert (await run_one(tool, ledger)).notes != ()
    assert counted(tmp_path) == 1


async def test_a_damaged_ledger_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "ledger"
    with FileLedger(path) as ledger:
        await run_one(counting_tool(tmp_path, Effect.EFFECTFUL), ledger)
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(LedgerDamaged, match="line 1 of"):
        FileLedger(path)
    assert path.read_bytes() == damaged


async def test_a_ledger_file_has_one_writer(tmp_path):
    with FileLedger(tmp_path / "ledger"), pytest.raises(LedgerHeld):
        FileLedger(tmp_path / "ledger")
    FileLedger(tmp_path / "ledger").close()


async def test_a_full_disk_leaves_the_ledger_whole(tmp_path, monkeypatch):
    path = tmp_path / "ledger"
    tool = counting_tool(tmp_path, Effect.EFFECTFUL)
    with FileLedger(path) as ledger:
        await run_one(tool, ledger)
        written = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", Disk(os.write).write)
            refused = await run_one(tool, ledger, Place("main", "message-2"))
        assert refused.ending is Ending.REFUSED
        assert path.read_bytes() == written
        await run_one(tool, ledger, Place("main", "message-2"))
    assert counted(tmp_path) == 2


class Disk:
    """Takes 20 bytes, and then nothing."""

    def __init__(self, write):
        self.write_real, self.taken = write, 0

    def write(self, fd, data):
        if self.taken:
            raise OSError(28, "No space left on device")
        self.taken = self.write_real(fd, data[:20])
        return self.taken


async def test_a_line_that_the_disk_takes_in_many_pieces_is_written_whole(tmp_path, monkeypatch):
    path, write = tmp_path / "ledger", os.write
    tool = counting_tool(tmp_path, Effect.EFFECTFUL)
    with FileLedger(path) as ledger, monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        await run_one(tool, ledger)
    with FileLedger(path) as ledger:
        await run_one(tool, ledger)
    assert counted(tmp_path) == 1


async def test_large_files_are_not_recorded(ledger):
    def draw(what: str) -> FilePart:
        """Draws."""
        return FilePart(name="a", media_type="b", size=100_000, data=bytes(100_000))

    tool = define(draw, name="count")
    assert (await run_one(tool, ledger)).files[0].data is not None
    again = await run_one(tool, ledger)
    assert again.files[0].data is None
    assert again.notes[0] == "files of more than 65536 bytes are not recorded"


def test_arguments_are_told_apart_by_their_values_alone():
    assert arguments_hash({"a": 1, "b": [True]}) == arguments_hash({"b": [True], "a": 1})
    assert arguments_hash({"a": 1}) != arguments_hash({"a": "1"})
    assert arguments_hash({"a": [1, 100]}) == arguments_hash({"a": [1.0, 1e2]})
    assert arguments_hash({"a": 1}) != arguments_hash({"a": 1.5})
