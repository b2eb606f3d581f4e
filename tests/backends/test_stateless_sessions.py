"""Sessions of a backend that keeps no state: llama.cpp's server, and SGLang's chat route."""

import pytest

from agent_runtime.demo.script import SYSTEM, make_registry
from agent_runtime.errors import NoBackend
from agent_runtime.graph import ask, build_agent
from agent_runtime.sdk import ApiError
from agent_runtime.turns.stateless import Stateless
from agent_runtime.wire.events import Reasoning, Text, ToolCalled
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import TurnResult
from engine.backends.chat import Backend
from engine.backends.settings import BackendSettings
from engine.demo_model import dialogues
from state_store.errors import StoreError
from tests.backends.conftest import KEY
from tests.backends.endpoint import DONE, USAGE, Scripted, event
from tests.engine_cpu.server import MODEL, running
from tools.calls import ToolCall

REMEMBER = dialogues.remember("harbour", "4712").user
RECALL = dialogues.recall("harbour", "4712").user
OTHER = dialogues.remember("garden", "9034").user


@pytest.fixture(scope="session")
def registry(backends_folder):
    return make_registry(backends_folder)


@pytest.fixture
async def session(torpor, registry):
    return await torpor.create(system=SYSTEM, tools=registry.specs())


@pytest.fixture(scope="module")
def sglang(backends_folder):
    """The engine itself, as any other endpoint: SGLang without the linker."""
    log, parser = backends_folder / "sglang.log", ("--tool-call-parser", "qwen3_coder")
    with running(MODEL, log, *parser, tokenizer=True) as server:
        yield f"http://127.0.0.1:{server.port}/v1"


async def unchanged(torpor, before):
    return await torpor.get(before.id) == before


async def test_a_turn_says_that_all_of_it_is_computed_again(torpor, session):
    assert (session.residency, session.tokens) == ("none", 0)
    first = await torpor.turn(session.id, REMEMBER)
    second = await torpor.turn(session.id, RECALL)
    assert "4712" in second.text
    assert (first.usage.recomputed_tokens, first.usage.recompute_reason) == (0, None)
    usage, known = second.usage, first.usage.prompt_tokens + first.usage.completion_tokens
    assert usage.recomputed_tokens + usage.reused_tokens == known
    assert usage.recomputed_tokens > 0
    assert usage.recompute_reason == "the backend keeps no state"
    assert (second.boundary, second.bytes_written, second.token_ids) == (0, 0, [])
    assert (second.parent, second.durable) == (first.snapshot, "memory")
    view = await torpor.get(session.id)
    assert (view.head, view.residency, view.boundary) == (second.snapshot, "none", 0)
    assert view.tokens == usage.prompt_tokens + usage.completion_tokens
    there = await torpor.whereabouts(session.id)
    assert (there.in_store, there.tokens) == ("none", view.tokens)
    assert there.reason == "the backend keeps no state"


async def test_what_the_endpoint_has_cached_is_reused(torpor, session, scripted_turn):
    await torpor.turn(session.id, REMEMBER)
    known = (await torpor.get(session.id)).tokens
    cached = event(
        usage={
            "prompt_tokens": known + 5,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": known},
        }
    )
    usage = (await scripted_turn(torpor, session, event({"content": "Yes."}) + cached)).usage
    assert (usage.reused_tokens, usage.recomputed_tokens) == (known, 0)
    assert usage.recompute_reason is None


@pytest.fixture
def scripted_turn(endpoint):
    async def run(torpor, session, stream):
        stop = event(finish_reason="stop")
        endpoint.scripted.append(Scripted(stream + stop + DONE))
        return await torpor.turn(session.id, "Now?")

    return run


async def test_text_is_streamed(torpor, session):
    *pieces, result = [event async for event in torpor.stream(session.id, REMEMBER)]
    assert isinstance(result, TurnResult)
    assert "".join(piece.text for piece in pieces).strip() == result.text
    assert len(pieces) > 1


async def test_an_answer_is_cut_at_the_limit(torpor, session):
    result = await torpor.turn(session.id, REMEMBER, max_tokens=2)
    assert (result.finish_reason, result.usage.completion_tokens) == ("length", 2)


async def test_tools_are_called_and_their_results_sent(torpor, registry, session, endpoint):
    steps = await ask(build_agent(torpor, registry), session.id, "What is 318 + 264?")
    assert [step.kind for step in steps] == ["model", "tool", "model"]
    (call,) = steps[0].turn.tool_calls
    assert (call.name, call.arguments) == ("calculator", {"expression": "318 + 264"})
    assert steps[2].text == "318 + 264 = 582."
    messages = endpoint.seen[-1][1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[3]["tool_call_id"] == messages[2]["tool_calls"][0]["id"]
    assert messages[3]["content"] == "582"


async def test_results_answer_the_calls_in_their_order(torpor, session, endpoint):
    calls = (ToolCall(name="f", arguments={"x": 1}), ToolCall(name="g"))
    said = [
        Message(role="user", content="Go."),
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="one"),
        Message(role="tool", content="two"),
    ]
    await torpor.turn(session.id, said)
    sent = endpoint.seen[-1][1]["messages"][2:]
    ids = [call["id"] for call in sent[0]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [message["tool_call_id"] for message in sent[1:]] == ids
    before = await torpor.get(session.id)
    with pytest.raises(ApiError, match="more tool results than calls"):
        await torpor.turn(session.id, [Message(role="tool", content="three")])
    assert await unchanged(torpor, before)


async def test_one_of_two_calls_has_no_result_alone(torpor, session, endpoint, scripted_turn):
    calls = [
        {"index": number, "function": {"name": "calculator", "arguments": "{}"}}
        for number in range(2)
    ]
    await scripted_turn(torpor, session, event({"tool_calls": calls}) + USAGE)
    before, asked = await torpor.get(session.id), len(endpoint.seen)
    result, question = Message(role="tool", content="none"), Message(role="user", content="Go on.")
    for some in ([result], [result, question]):
        with pytest.raises(ApiError, match="1 calls have no result") as refused:
            await torpor.turn(session.id, some)
        assert refused.value.code == "bad_request"
    assert await unchanged(torpor, before)
    assert len(endpoint.seen) == asked
    await torpor.turn(session.id, [result, result, question])


async def test_arguments_that_are_no_json_are_a_problem_and_not_sent_back(
    torpor, session, endpoint, scripted_turn
):
    call = {"index": 0, "function": {"name": "calculator", "arguments": "{1 +"}}
    result = await scripted_turn(torpor, session, event({"tool_calls": [call]}) + USAGE)
    assert result.tool_calls == [ToolCall(name="calculator")]
    assert "not JSON" in result.problems[0]
    await torpor.turn(session.id, [Message(role="tool", content="what?")])
    (sent,) = endpoint.seen[-1][1]["messages"][-2]["tool_calls"]
    assert sent["function"]["arguments"] == "{}"
    assert sent["id"]


async def test_an_answer_that_is_all_reasoning_is_a_problem(torpor, session, scripted_turn):
    result = await scripted_turn(torpor, session, event({"reasoning_content": "Hm."}) + USAGE)
    assert (result.text, result.problems) == (
        "", ["the answer was all reasoning, and there is no text"],
    )  # fmt: skip
    assert result.reasoning == "Hm."


async def test_reasoning_text_and_calls_are_streamed_apart(torpor, session, endpoint):
    call = {"index": 0, "id": "1", "function": {"name": "add", "arguments": '{"a": "1"}'}}
    stream = (
        event({"reasoning_content": "H"})
        + event({"reasoning_content": "m."})
        + event({"content": "So:"})
        + event({"tool_calls": [call]})
        + USAGE
        + event(finish_reason="tool_calls")
        + DONE
    )
    endpoint.scripted.append(Scripted(stream))
    *events, result = [event async for event in torpor.stream(session.id, "Now?")]
    assert events == [
        Reasoning(text="H"), Reasoning(text="m."), Text(text="So:"),
        ToolCalled(name="add", arguments={"a": "1"}),
    ]  # fmt: skip
    assert (result.reasoning, result.text) == ("Hm.", "So:")
    assert [call.name for call in result.tool_calls] == ["add"]
    again = await torpor.turn(session.id, REMEMBER, idempotency_key="once")
    assert again == (await torpor.turn(session.id, REMEMBER, idempotency_key="once")).model_copy(
        update={"replayed": False}
    )
    assert len(await torpor.snapshots(session.id)) == 2


async def test_forks_go_their_own_ways(torpor, session, store, endpoint):
    first = await torpor.turn(session.id, REMEMBER)
    fork = await torpor.fork(session.id, snapshot=first.snapshot)
    twin = await torpor.fork(session.id)
    assert (fork.residency, fork.head, fork.tokens) == ("none", first.snapshot, twin.tokens)
    one, same = [await torpor.turn(id_, RECALL) for id_ in (session.id, twin.id)]
    other = await torpor.turn(fork.id, RECALL.upper())
    assert one.snapshot == same.snapshot  # the same messages are the same snapshot
    assert len({first.snapshot, one.snapshot, other.snapshot}) == 3
    assert "4712" in one.text
    await torpor.turn(fork.id, "Go on.")
    sent = [message["content"] for message in endpoint.seen[-1][1]["messages"]]
    assert RECALL.upper() in sent
    assert RECALL not in sent
    assert (await store.check_integrity()).problems == []


async def test_other_messages_of_the_same_length_are_another_snapshot(
    torpor, session, scripted_turn
):
    fork = await torpor.fork(session.id)
    one = await scripted_turn(torpor, session, event({"content": "Yes."}) + USAGE)
    other = await scripted_turn(torpor, fork, event({"content": "Nay."}) + USAGE)
    assert one.snapshot != other.snapshot


async def test_a_session_is_rewound(torpor, session, store, endpoint):
    first = await torpor.turn(session.id, REMEMBER)
    await torpor.turn(session.id, OTHER)
    lease = await store.acquire(session.id, ttl=30, owner="test")
    await store.rewind(session.id, first.snapshot, lease=lease)
    await store.release(lease)
    assert (await torpor.turn(session.id, RECALL)).parent == first.snapshot
    sent = [message["content"] for message in endpoint.seen[-1][1]["messages"]]
    assert REMEMBER in sent
    assert OTHER not in sent


async def test_suspend_confirms_and_resume_restores_nothing(torpor, session):
    turn = await torpor.turn(session.id, REMEMBER)
    suspended = await torpor.suspend(session.id)
    assert (suspended.durable, suspended.bytes_written) == ("fsync", 0)
    resumed = await torpor.resume(session.id)
    assert (resumed.head, resumed.restorable_tokens, resumed.bytes_read) == (turn.snapshot, 0, 0)
    assert resumed.reason == "the backend keeps no state"
    with pytest.raises(ApiError, match=r"nothing of .* can be restored") as caught:
        await torpor.resume(session.id, strict=True)
    assert caught.value.code == "nothing_reused"
    assert "4712" in (await torpor.turn(session.id, RECALL)).text


async def test_a_session_is_listed_and_deleted_without_a_trace(torpor, session, store):
    await torpor.turn(session.id, REMEMBER)
    (shown,) = await torpor.snapshots(session.id)
    assert (shown.boundary, shown.boundaries) == (0, [])
    assert shown.tokens > shown.prompt_tokens > 0
    assert session.id in [one.id for one in await store.sessions("default")]
    await torpor.delete(session.id)
    with pytest.raises(StoreError):
        await store.snapshot(shown.id)
    assert (await store.check_integrity()).problems == []


@pytest.mark.parametrize(
    ("messages", "options"), [("Hi", {"top_logprobs": 1}), ([], {"proceed": True})]
)
async def test_a_turn_that_needs_state_is_refused(torpor, session, messages, options):
    await torpor.turn(session.id, REMEMBER, max_tokens=2)
    before = await torpor.get(session.id)
    with pytest.raises(ApiError, match="keeps no state") as caught:
        await torpor.turn(session.id, messages, **options)
    assert (caught.value.code, caught.value.status) == ("needs_state", 400)
    assert await unchanged(torpor, before)


async def test_a_fork_at_a_number_of_tokens_is_refused(torpor, session):
    with pytest.raises(ApiError, match="its history is messages") as caught:
        await torpor.fork(session.id, tokens=0)
    assert caught.value.code == "needs_state"


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        (Scripted("slow down", 429, {"Retry-After": "7"}), "backend_busy", 503),
        (Scripted(f"no such key: {KEY}", 401), "backend_unauthorized", 502),
        (Scripted("boom", 500), "engine_refused", 502),
        (Scripted("data: {nonsense\n\n"), "backend_malformed", 502),
        (Scripted(event({"content": "Hel"}), length=999), "engine_unreachable", 503),
    ],
)
async def test_a_turn_that_fails_leaves_the_session_as_it_was(
    torpor, session, endpoint, log_file, answer, code, status
):
    await torpor.turn(session.id, REMEMBER)
    before = await torpor.get(session.id)
    endpoint.scripted.append(answer)
    with pytest.raises(ApiError) as caught:
        await torpor.turn(session.id, RECALL)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert KEY not in str(caught.value)
    assert KEY not in log_file.read_text()
    assert endpoint.seen[-1][0]["Authorization"] == f"Bearer {KEY}"
    assert await unchanged(torpor, before)
    assert "4712" in (await torpor.turn(session.id, RECALL)).text


async def test_a_busy_endpoints_wait_reaches_the_client(torpor, session, endpoint):
    endpoint.scripted.append(Scripted("slow down", 429, {"Retry-After": "7"}))
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    answer = await torpor._http.post(f"/v1/sessions/{session.id}/turns", json=body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")


async def test_a_conversation_is_found_again(torpor, store):
    said = [Message(role="user", content=REMEMBER)]
    first = await torpor.converse(said)
    said += [Message(role="assistant", content=first.text), Message(role="user", content=RECALL)]
    second = await torpor.converse(said)
    assert (second.session_id, second.parent) == (first.session_id, first.snapshot)


async def test_another_model_does_not_go_on_with_a_session(store, session):
    found = await store.session(session.id)
    other = Backend(BackendSettings(url="http://localhost/v1", model="another"))
    with pytest.raises(NoBackend, match=r"answered by the model demo, .* serves another"):
        await Stateless(store, other, only=True).require_backend(found)
    await other.close()
    with pytest.raises(NoBackend, match="no backend"):
        await Stateless(store, None, only=False).require_backend(found)


async def test_a_runtime_without_an_engine_is_well(torpor):
    assert await torpor.health() == {"status": "ok", "engines": 0, "backend": "demo"}
    with pytest.raises(ApiError) as caught:
        await torpor.create(stateless=False)
    assert caught.value.code == "no_engine"


@pytest.mark.slow
async def test_sglang_goes_on_where_llama_cpp_was(torpor, registry, endpoint, llama, sglang):
    """The same model behind both: the same tokens in, the same text out."""
    agent = build_agent(torpor, registry)
    runs = []
    for urls in ([llama.url, llama.url], [sglang, sglang], [llama.url, sglang]):
        session = await torpor.create(system=SYSTEM, tools=registry.specs())
        steps = []
        for url, text in zip(urls, ("What is 318 + 264?", REMEMBER), strict=True):
            endpoint.upstream = url
            steps += await ask(agent, session.id, text)
        endpoint.upstream = llama.url
        turns = [step.turn for step in steps if step.turn is not None]
        said = [(turn.text, turn.tool_calls) for turn in turns]
        runs.append((turns[0].usage.prompt_tokens, said))
    assert runs[0][1][1][0] == "318 + 264 = 582."
    assert runs[0] == runs[1] == runs[2]
