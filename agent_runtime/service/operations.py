"""The names of the API's operations, which generated clients call their methods, and examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from agent_runtime.http.streaming import EventStream
from agent_runtime.wire.messages import Message
from agent_runtime.wire.residency import HoldRequest, PersistRequest, ResumeRequest, SuspendRequest
from agent_runtime.wire.sessions import CreateSession, ForkRequest, LabelsRequest, SessionView
from agent_runtime.wire.turns import ConversationRequest, TurnRequest
from agent_runtime.wire.versions import ForksRequest, RewindRequest

OPERATIONS: dict[str, tuple[str, str]] = {
    "GET /health": ("health", "Whether the service lives"),
    "GET /ready": ("ready", "Whether a turn could be served"),
    "GET /metrics": ("metrics", "Counts and times for Prometheus"),
    "GET /v1/scheduling": ("scheduling", "Slots, queues and hit rates of engines"),
    "GET /v1/keys": ("listKeys", "List API keys"),
    "POST /v1/keys": ("createKey", "Make an API key"),
    "DELETE /v1/keys/{key_id}": ("revokeKey", "Revoke an API key"),
    "GET /v1/tenants": ("listTenants", "List tenants"),
    "GET /v1/tenants/{name}/usage": ("getTenantUsage", "Count what a tenant takes"),
    "GET /v1/tenants/{name}/quota": ("getTenantQuota", "Look at a tenant's quota"),
    "PUT /v1/tenants/{name}/quota": ("setTenantQuota", "Replace a tenant's quota"),
    "POST /v1/sessions": ("createSession", "Create a session"),
    "GET /v1/sessions": ("listSessions", "List sessions, newest first"),
    "GET /v1/sessions/{session_id}": ("getSession", "Look at a session"),
    "DELETE /v1/sessions/{session_id}": ("deleteSession", "Delete a session"),
    "PUT /v1/sessions/{session_id}/labels": ("setLabels", "Replace a session's labels"),
    "GET /v1/sessions/{session_id}/events": ("followSession", "Follow what happens to a session"),
    "GET /v1/sessions/{session_id}/snapshots": ("listSnapshots", "List a session's snapshots"),
    "GET /v1/sessions/{session_id}/whereabouts": ("locateSession", "Find where the state is"),
    "POST /v1/sessions/{session_id}/turns": ("takeTurn", "Take a turn"),
    "POST /v1/sessions/{session_id}/turns/resume": ("resumeTurn", "Run an interrupted turn again"),
    "POST /v1/sessions/{session_id}/cancel": ("cancelTurn", "End the turn that runs"),
    "POST /v1/sessions/{session_id}/suspend": ("suspendSession", "Suspend a session"),
    "POST /v1/sessions/{session_id}/resume": ("resumeSession", "Resume a session"),
    "POST /v1/sessions/{session_id}/fork": ("forkSession", "Fork a session"),
    "POST /v1/sessions/{session_id}/forks": ("forkSessionManyTimes", "Make many forks at once"),
    "POST /v1/sessions/{session_id}/rewind": ("rewindSession", "Move a session's head back"),
    "POST /v1/sessions/{session_id}/persist": ("persistSession", "Make the head durable now"),
    "POST /v1/sessions/{session_id}/hold": ("holdSession", "Keep the state on the device"),
    "POST /v1/sessions/{session_id}/release": ("releaseSession", "End a hold"),
    "POST /v1/sessions/{session_id}/drop": ("dropSession", "Free the device of the state"),
    "GET /v1/sessions/{session_id}/diff": ("compareSessions", "Find where two histories part"),
    "GET /v1/sessions/{session_id}/tree": ("showTree", "Show a session and all its forks"),
    "GET /v1/sessions/{session_id}/export": ("exportSession", "Export a session as one file"),
    "GET /v1/snapshots": ("findSnapshots", "Find snapshots by labels"),
    "GET /v1/snapshots/{snapshot_id}": ("getSnapshot", "Look at a snapshot"),
    "PUT /v1/snapshots/{snapshot_id}/labels": ("labelSnapshot", "Replace a snapshot's labels"),
    "POST /v1/import": ("importSession", "Take in an exported session"),
    "POST /v1/converse": ("converse", "Go on with a whole conversation"),
    "GET /v1/items/{name}": ("readItems", "Read the last items of a list"),
    "POST /v1/items/{name}": ("addItems", "Add items to a list"),
    "DELETE /v1/items/{name}": ("clearItems", "Clear a list of items"),
    "POST /v1/items/{name}/pop": ("popItem", "Take the last item off a list"),
    "POST /v1/sessions/{session_id}/effects/find": ("findEffect", "Find a tool's effect"),
    "POST /v1/sessions/{session_id}/effects/begin": ("beginEffect", "Note that an effect begins"),
    "POST /v1/sessions/{session_id}/effects/end": ("endEffect", "Note how an effect ended"),
    "POST /v1/sessions/{session_id}/effects/inherited": (
        "listInheritedEffects",
        "List the effects that a fork inherited",
    ),
    "GET /v1/sessions/{session_id}/messages": ("listMessages", "List what was said"),
    "GET /v1/sessions/{session_id}/effects": ("listEffects", "List what tools have done"),
    "GET /v1/sessions/{session_id}/workspace": ("getWorkspace", "List a workspace's files"),
    "POST /v1/sessions/{session_id}/workspace/missing": (
        "findMissingPieces",
        "Find the pieces of files that are to be sent",
    ),
    "POST /v1/sessions/{session_id}/workspace/pieces": ("putPieces", "Send pieces of files"),
    "POST /v1/sessions/{session_id}/workspace/read": ("readPieces", "Read pieces of files"),
    "POST /v1/sessions/{session_id}/workspace/versions": (
        "keepWorkspace",
        "Keep a version of the workspace",
    ),
    "GET /v1/models": ("listModels", "List the models"),
    "GET /v1/models/{name}": ("getModel", "Look at a model"),
    "POST /v1/responses": ("createResponse", "Create a response (OpenAI)"),
    "GET /v1/responses/{response_id}": ("getResponse", "Look at a response (OpenAI)"),
    "DELETE /v1/responses/{response_id}": ("deleteResponse", "Delete a response (OpenAI)"),
    "POST /v1/responses/{response_id}/cancel": ("cancelResponse", "Cancel a response (OpenAI)"),
    "GET /v1/responses/{response_id}/input_items": (
        "listResponseInput",
        "List what a response was given (OpenAI)",
    ),
    "POST /v1/conversations": ("createConversation", "Create a conversation (OpenAI)"),
    "GET /v1/conversations/{conversation_id}": (
        "getConversation",
        "Look at a conversation (OpenAI)",
    ),
    "POST /v1/conversations/{conversation_id}": (
        "updateConversation",
        "Change a conversation's metadata (OpenAI)",
    ),
    "DELETE /v1/conversations/{conversation_id}": (
        "deleteConversation",
        "Delete a conversation (OpenAI)",
    ),
    "GET /v1/conversations/{conversation_id}/items": (
        "listConversationItems",
        "List a conversation's items (OpenAI)",
    ),
    "POST /v1/conversations/{conversation_id}/items": (
        "addConversationItems",
        "Add items to a conversation (OpenAI)",
    ),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": (
        "getConversationItem",
        "Look at a conversation's item (OpenAI)",
    ),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": (
        "deleteConversationItem",
        "Delete a conversation's item (OpenAI)",
    ),
    "POST /v1/chat/completions": ("createChatCompletion", "Complete a chat (OpenAI)"),
    "POST /v1/messages": ("createMessage", "Create a message (Anthropic)"),
    "POST /v1/messages/count_tokens": ("countTokens", "Count a prompt's tokens (Anthropic)"),
}
"""Method and path -> id and summary."""

_SESSION = "ses-5b1c9a3f7e2d4860-9f31c2a47be05d18"
_SNAPSHOT = "snp-5b1c9a3f7e2d4860-2c7d9e01a4b85f633c7d9e01a4b85f63"
_ASKED = Message(role="user", content="What is 318 + 264?")

EXAMPLES: tuple[BaseModel, ...] = (
    CreateSession(system="You are Torpor.", labels={"team": "support"}),
    TurnRequest(messages=[_ASKED], max_tokens=64),
    ConversationRequest(
        messages=[Message(role="system", content="You are Torpor."), _ASKED], max_tokens=64
    ),
    SuspendRequest(durability="fsync"),
    ResumeRequest(strict=True),
    PersistRequest(durability="fsync"),
    HoldRequest(seconds=600.0),
    LabelsRequest(labels={"team": "support", "status": "done"}),
    ForkRequest(labels={"branch": "other answer"}),
    ForksRequest(count=3),
    RewindRequest(turns=1),
    SessionView(
        id=_SESSION,
        head=_SNAPSHOT,
        tokens=96,
        boundary=96,
        residency="device",
        labels={"team": "support"},
        forked_from=None,
        created_at=1764500000.0,
    ),
)

_EVENT = {
    "type": "object",
    "description": "One server-sent event of the stream; its data is JSON, or [DONE].",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}


def describe(app: FastAPI) -> None:
    """Have the OpenAPI document of `app` name its operations, and show examples."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()  # FastAPI keeps it: what is set once stays
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                named = OPERATIONS.get(f"{method.upper()} {path}")
                if named is not None:
                    operation["operationId"], operation["summary"] = named
                for answer in operation["responses"].values():
                    if stream := answer.get("content", {}).get(EventStream.media_type):
                        stream["schema"] = _EVENT
                for parameter in operation.get("parameters", ()):
                    if (parameter["in"], parameter["name"]) == ("path", "session_id"):
                        parameter["example"] = _SESSION
        schemas = document["components"]["schemas"]
        for example in EXAMPLES:
            schema = schemas[type(example).__name__]
            schema["examples"] = [example.model_dump(mode="json", exclude_unset=True)]
        return document

    app.openapi = described  # type: ignore[method-assign]
