"""`torpor chat` without a terminal, over an endpoint that answers as a test says."""

import asyncio
import io
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from agent_runtime.chat.plain import PlainView
from agent_runtime.chat.problems import exit_code, told
from agent_runtime.chat.view import harmless, usage_line
from agent_runtime.cli import main
from agent_runtime.errors import BadRequest
from agent_runtime.graph import Step
from agent_runtime.sdk.errors import ApiError
from agent_runtime.sdk.sync import TorporSync
from agent_runtime.wire.events import ToolCalled
from agent_runtime.wire.problems import Problem
from engine.launch import free_port
from tests.backends.scripted import call, says, sent
from tests.results import turn_result
from tests.serving import runtime_process


@pytest.fixture
def piped(chat_service, tmp_path, monkeypatch, capsys):
    """Sends a message; the exit code, and what was on the standard output and error."""

    def run(text: str, *arguments: str, url: str = chat_service.url):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        code = main(["chat", "--url", url, "--files", str(tmp_path), *arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def torpor(chat_service):
    with TorporSync(chat_service.url) as client:
        yield client


def test_the_answer_alone_is_on_the_standard_output(piped, said):
    said.scripted += [
        says({"reasoning_content": "Hm."}, {"content": "\x1b[1mHello"}, {"content": "."}),
        says({"content": "Hello again.\n"}),
    ]
    code, out, err = piped("Hello?", "--session", "pia", "--no-tools")
    assert (code, out) == (0, "\x1b[1mHello.\n")
    assert "reused 0 of 9 prompt tokens" in err
    assert piped("Again.", "--continue")[:2] == (0, "Hello again.\n")
    assert [text for _, text in sent(said)] == ["Hello?", "\x1b[1mHello.", "Again."]


def test_nothing_that_a_model_writes_commands_the_terminal():
    err = io.StringIO()
    view = PlainView(io.StringIO(), err)
    evil = "\x1b[2J\x1b]0;owned\x07\n\u202e"
    view.called(ToolCalled(name=evil, arguments={evil: evil}))
    view.ran(Step(kind="tool", name=evil, text=evil, notes=[evil]))
    view.note(evil)
    assert all(len(line) < 200 and harmless(line) == line for line in err.getvalue().split("\n"))
    assert len(err.getvalue().splitlines()) == 4
    assert harmless(told(BadRequest(evil))) == told(BadRequest(evil))


def test_events_are_lines_of_json(piped, said):
    said.scripted += [
        says({"reasoning_content": "Hm."}, call("calculator", "c", expression="6 * 7")),
        says({"content": "It is 42."}),
    ]
    code, out, err = piped("How much?", "--session", "joe", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [one["event"] for one in events] == [
        "session", "reasoning", "tool_call", "result", "tool_result", "text", "result",
    ]  # fmt: skip
    assert events[0]["name"] == "joe"
    assert events[3]["tool_calls"][0]["name"] == "calculator"
    assert events[4]["text"] == "42"
    assert events[-1]["text"] == "It is 42."


def test_code_runs_without_a_person_only_if_that_was_said(piped, said):
    said.scripted += [
        says(call("shell", "c", command="echo $((6 * 7))"), finish="tool_calls"),
        says({"content": "No?"}),
        says(call("shell", "c", command="echo $((6 * 7))"), finish="tool_calls"),
        says({"content": "Yes."}),
    ]
    _, _, err = piped("Run it.", "--session", "kim")
    assert "Nobody is there to allow it" in err
    _, _, err = piped("Run it.", "--session", "kim", "--yes")
    assert "shell: 42" in err


def test_files_go_with_the_chat(piped, said, tmp_path):
    said.scripted += [
        says(call("write_file", "c", path="plan", content="Go."), finish="tool_calls"),
        says({"content": "Written."}),
        says(call("read_file", "c", path="plan"), finish="tool_calls"),
        says({"content": "Go."}),
    ]
    piped("Write.", "--session", "lea")
    code, _, err = piped("Read.", "--session", "lea", "--files", str(tmp_path / "elsewhere"))
    assert code == 0
    assert "read_file: Go." in err


@pytest.mark.parametrize(
    ("text", "options", "words", "expected"),
    [
        (" ", [], "no message on the standard input", 2),
        ("x", ["--tools", "forecast"], "no tool 'forecast'", 2),
        ("x", ["--tools", "fetch"], "needs --fetch-from", 2),
        ("x", ["--session", "ses-0-0"], "not a session", 1),
        ("x", ["--session", "bad\nname"], "label", 1),
        ("x", ["--key-variable", "TORPOR_NO_SUCH_KEY"], "is not set", 2),
        ("x", ["--url", "foo"], "'foo' is no URL of a service", 2),
        ("x", ["--url", "127.0.0.1:8700"], "begins with http://", 2),
    ],
)
def test_what_cannot_be_is_told_in_a_line(piped, said, text, options, words, expected):
    code, out, err = piped(text, *options)
    assert (code, out) == (expected, "")
    assert words in err
    assert err.startswith("torpor: ")
    assert err.count("\n") == 1
    assert not said.seen


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--max-tokens", "0", "'0' is no number of tokens"),
        ("--max-tokens", "many", "'many' is no number of tokens"),
        ("--temperature", "-1", "'-1' is no temperature"),
        ("--temperature", "nan", "'nan' is no temperature"),
        ("--temperature", "hot", "'hot' is no temperature"),
    ],
)
def test_a_number_that_no_turn_can_have_is_a_wrong_option(
    piped, said, capsys, option, value, words
):
    with pytest.raises(SystemExit) as ended:
        piped("Hello?", option, value)
    assert ended.value.code == 2
    assert f"argument {option}: {words}" in capsys.readouterr().err
    assert not said.seen


def test_options_that_the_model_does_not_know_are_wrong_ones():
    refused = Problem(
        type="about:blank", title="Bad Request", status=400, detail="No.", code="unsupported"
    )
    assert exit_code(ApiError(refused)) == 2
    assert exit_code(ApiError(refused.model_copy(update={"code": "context_full"}))) == 1


def test_each_reason_stands_behind_what_it_explains():
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 15,
        "reused_tokens": 6,
        "recomputed_tokens": 24,
        "boundary_tokens": 6,
        "recompute_reason": "past the last boundary",
    }
    result = turn_result(text="Yes.", usage=usage, durable="memory")
    assert usage_line([result]).endswith(
        "recomputed 24 (past the last boundary) · generated 15 · durable: memory"
    )
    late = result.model_copy(update={"not_durable_because": "the store is slow"})
    assert usage_line([late]).endswith("durable: memory (the store is slow)")


def test_a_chat_keeps_the_system_text_and_tools_that_it_was_begun_with(piped, said):
    said.scripted.append(says({"content": "Yes."}))
    piped("Hello?", "--session", "max", "--no-tools")
    code, _, err = piped("Hello?", "--session", "max", "--system", "Be brief.")
    assert code == 2
    assert "begin another chat" in err


def test_a_failed_turn_leaves_no_chat_behind(piped, said, torpor):
    refused = says({"content": "No."})
    refused.status = 400
    said.scripted += [says(call("calculator", "c", expression="1"), finish="tool_calls"), refused]
    code, out, err = piped("Hello?", "--session", "ned")
    assert (code, out) == (1, "")
    assert "as before your message" in err
    assert list(torpor.sessions(labels={"chat": "ned"})) == []


def test_a_service_that_is_not_there_or_is_full_is_another_exit_code(piped, said):
    code, _, err = piped("Hello?", url=f"http://127.0.0.1:{free_port()}")
    assert code == 3
    assert "torpor up" in err
    busy = says({"content": "No."})
    busy.status = 503
    said.scripted.append(busy)
    assert piped("Hello?", "--session", "ole", "--wait", "0")[0] == 3


async def test_a_key_comes_from_the_environment(
    bare_store, store, said, backends_folder, piped, monkeypatch
):
    _, key = await store.keys.create("ann")
    guarded = runtime_process(
        bare_store.url,
        backends_folder / "guarded-runtime.log",
        backend=said.url,
        options=["--require-keys"],
    )
    said.scripted.append(says({"content": "Come in."}))
    with guarded:
        code, _, err = await asyncio.to_thread(piped, "Hello?", url=guarded.url)
        assert code == 1
        assert "TORPOR_API_KEY" in err
        monkeypatch.setenv("TORPOR_API_KEY", key)
        code, out, _ = await asyncio.to_thread(piped, "Hello?", url=guarded.url)
    assert (code, out) == (0, "Come in.\n")


def test_ctrl_c_ends_the_turn_and_the_command(chat_service, said, torpor, tmp_path):
    slow = threading.Event()
    held = says({"content": "Never."})
    held.after = slow
    said.scripted.append(held)
    command = [sys.executable, "-m", "agent_runtime.cli", "chat", "--session", "pat"]
    command += ["--url", chat_service.url, "--files", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"Hello?")
        process.stdin.close()
        deadline = time.monotonic() + 60
        while not said.seen and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        slow.set()
        assert code == 130
        assert b"as before your message" in process.stderr.read()
    assert list(torpor.sessions(labels={"chat": "pat"})) == []


def test_a_model_that_keeps_calling_tools_is_stopped(piped, said):
    again = says(call("calculator", "c", expression="1"), finish="tool_calls")
    said.scripted += [again] * 25
    code, _, err = piped("Count.", "--session", "quin")
    assert code == 1
    assert "keeps calling tools: 25 turns" in err
