"""The answer to a turn."""

from __future__ import annotations

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.scheduling.admission import Slot
from agent_runtime.scheduling.tool_times import REPLY
from agent_runtime.turns.generation import Generation, usage_of, without_eos
from agent_runtime.turns.outage import Standing
from agent_runtime.turns.stopping import text_before
from agent_runtime.turns.thinking import reasoning_tokens
from agent_runtime.wire.turns import TokenLogprob, TopLogprob, TurnRequest, TurnResult
from engine.records import EngineRecord
from tools.define import ToolSpec
from tools.formats import parse


def result_of(
    chat: ChatFormat,
    before: Standing,
    prompt_delta: list[int],
    generation: Generation,
    request: TurnRequest,
) -> TurnResult:
    """Of a turn that is generated, and not committed. before: the session when it began."""
    session, history, record = before.session, before.history, before.engine.record
    usage = usage_of(history, prompt_delta, generation, before.rewriting)
    text = chat.decode(without_eos(generation.ids, chat.eos_id))
    message = parse(
        text_before(text, generation.stopped_by),
        chat.calls,
        tools=[ToolSpec.model_validate(tool) for tool in session.body.meta["tools"]],
        thinking=chat.thinks_after(prompt_delta or history.tokens),
        cut_off=generation.finish_reason == "length" or generation.stopped_by is not None,
    )
    return TurnResult(
        session_id=session.id,
        parent=session.head,
        engine=record.engine_id,
        engine_because=generation.placement.why,
        failed_over="; ".join(generation.failed_over) or None,
        text=message.text,
        reasoning=message.reasoning,
        tool_calls=list(message.calls),
        problems=[*message.problems, *_unsampled(request, record)],
        finish_reason=generation.finish_reason,
        stopped_by=generation.stopped_by,
        token_ids=generation.ids,
        usage=usage.model_copy(
            update={"reasoning_tokens": reasoning_tokens(chat, generation.ids, message.reasoning)}
        ),
        mtp_accept_length=generation.accept_length,
        logprobs=[
            TokenLogprob(
                token=position.token,
                logprob=position.logprob,
                top=[TopLogprob(token=t, logprob=value) for t, value in position.top],
            )
            for position in generation.logprobs
        ],
    )


def leave(slot: Slot, result: TurnResult) -> None:
    """What the scheduler learns from a turn: what the session has, and what it waits for now."""
    usage = result.usage
    slot.ended(
        tokens=usage.prompt_tokens + usage.completion_tokens,
        tool="+".join(sorted({call.name for call in result.tool_calls})) or REPLY,
        reprefilled=usage.reused_tokens < usage.boundary_tokens,
    )


def _unsampled(request: TurnRequest, record: EngineRecord) -> list[str]:
    problems = []
    if request.temperature and record.greedy_only:
        problems.append(
            "only the first token was sampled: this engine verifies drafts greedily, as SGLang "
            "does on a CPU. Start it with --no-mtp to sample."
        )
    if request.temperature and request.seed is not None and not record.seeded:
        problems.append(
            "the seed had no effect: SGLang draws by it only if the engine is started with "
            "--enable-deterministic-inference."
        )
    return problems
