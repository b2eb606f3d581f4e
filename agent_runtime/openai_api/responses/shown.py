"""A response as it is shown: what was asked, and at last what came of it."""

from __future__ import annotations

from typing import Any

from agent_runtime.openai_api.messages import ours
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.openai_api.responses.requests import TEMPERATURE, CreateResponse
from agent_runtime.wire.turns import TurnResult

Shown = dict[str, Any]


def in_progress(
    request: CreateResponse,
    response_id: str,
    *,
    created_at: int,
    instructions: str | None,
) -> Shown:
    """instructions: in force, wherever they come from"""
    given = request.model_dump(mode="json")
    text = given["text"] or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": bool(request.background),
        "conversation": None if request.conversation is None else {"id": request.conversation_id},
        "error": None,
        "incomplete_details": None,
        "instructions": instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": request.effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.is_stored,
        "temperature": _or(request.temperature, TEMPERATURE),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": request.tool_choice or "auto",
        "tools": [{"strict": None, **tool} for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": _or(request.top_p, 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }


def completed(
    begun: Shown,
    result: TurnResult,
    output: list[Item],
    *,
    rendered_anew: str | None,
) -> Shown:
    """rendered_anew: why what was known was not gone on from, None if it was"""
    cut_off = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = cut_off.get(result.finish_reason)
    usage = result.usage
    return begun | {
        "status": "completed" if reason is None else "incomplete",
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": output,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.reused_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        "torpor": ours(result) | {"rendered_anew": rendered_anew, "not_kept_because": None},
    }


def failed(begun: Shown, *, status: int, code: str, detail: str) -> Shown:
    """status, code: as the problem has them"""
    kind = "rate_limit_exceeded" if status == 429 else "server_error"
    kind = "invalid_prompt" if 400 <= status < 429 else kind
    cancelled = code == "cancelled"
    return begun | {
        "status": "cancelled" if cancelled else "failed",
        "error": None if cancelled else {"code": kind, "message": detail},
        "torpor": {"code": code},
    }


def replayed(response: Shown) -> Shown:
    """As it is told to who asks for it again."""
    return response | {"torpor": response["torpor"] | {"replayed": True}}


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
