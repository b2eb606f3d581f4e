"""Errors of every layer as problem details: one place decides status and code.

A code is the error's name in snake case, and stable. An error that has no entry of its own is told
as the nearest one above it that has.
"""

from __future__ import annotations

import re

from agent_runtime.errors import TorporError
from agent_runtime.wire.problems import Problem
from engine import errors as engine
from state_store import errors as store
from tools import errors as tools

_STATUS: dict[type[Exception], int] = {
    engine.EngineError: 500,
    engine.NoEngine: 503,
    engine.EngineUnreachable: 503,
    engine.LoadFailed: 503,
    engine.EngineBusy: 503,
    engine.EngineRefused: 502,
    engine.GrammarRefused: 400,
    engine.BackendUnauthorized: 502,
    engine.BackendBusy: 503,
    engine.BackendMalformed: 502,
    store.StoreError: 500,
    store.StoreUnavailable: 503,
    store.StoreRefused: 502,
    store.StoreFull: 507,
    store.NotFound: 404,
    store.UnknownFingerprint: 404,
    store.TenantDeleted: 404,
    store.InvalidArgument: 400,
    store.TenantExists: 409,
    store.InvalidId: 400,
    store.InvalidTenant: 400,
    store.InvalidDraft: 500,
    store.InvalidLabels: 400,
    store.InvalidDurability: 400,
    store.QuotaExceeded: 429,
    store.LeaseHeld: 409,
    store.LeaseLost: 409,
    store.HeadMoved: 409,
    store.ObjectsMissing: 409,
    store.FilesMissing: 409,
    store.CorruptObject: 500,
    store.FingerprintMismatch: 409,
    store.UnknownEncoding: 500,
    store.UnknownEconomy: 400,
    store.VaultLocked: 503,
    store.InvalidKey: 500,
    store.InvalidKeyLimits: 400,
    store.DurabilityNotReached: 503,
    store.ServersChanged: 503,
    store.ArchiveUnavailable: 503,
    store.ArchiveRefused: 502,
    store.ArchivedObjectsLost: 410,
    store.InvalidPolicy: 400,
    store.ExportFailed: 500,
    store.InvalidExport: 400,
    store.BuffersExhausted: 503,
    store.EngineSilent: 503,
    store.EngineFailed: 503,
    store.OtherProtocol: 503,
    store.EngineIdTaken: 409,
    tools.ToolsError: 500,
    tools.BadDefinition: 400,
    tools.UnknownFormat: 400,
    tools.LedgerHeld: 409,
    tools.LedgerDamaged: 500,
    tools.BadLimits: 400,
    tools.McpUnavailable: 503,
    tools.McpUnauthorized: 502,
    tools.McpInterrupted: 502,
    tools.SandboxUnavailable: 503,
    tools.SnapshotMissing: 404,
    tools.WorkspaceExists: 409,
    tools.WorkspacesUnusable: 507,
    tools.WorkspacesDiffer: 409,
    tools.AddressRefused: 400,
    tools.OutsideWorkspace: 400,
    tools.TooDeep: 413,
    tools.WorkspaceFull: 413,
}

# The error itself is in the log: it may name what is not the client's to know.
UNFORESEEN = Problem(
    title="Internal error",
    status=500,
    code="internal",
    detail="the service failed in a way that it does not foresee; sessions are as their last "
    "commit left them. The log of the service has the error under this request's id.",
)


def problem_of(error: Exception) -> Problem:
    """The problem document of one of our errors.

    What belongs to another tenant is not there, in every word.
    """
    status, code = status_and_code(type(error))
    return Problem(
        title=_told_as(type(error)).__name__,
        status=status,
        code=code,
        detail=str(error),
        param=getattr(error, "param", None),
    )


def status_and_code(kind: type[Exception]) -> tuple[int, str]:
    """Of the problem document of an error of this class."""
    if issubclass(kind, TorporError):
        return kind.status, kind.code
    told = _told_as(kind)
    return _STATUS.get(told, 500), _snake(told.__name__)


def _told_as(kind: type[Exception]) -> type[Exception]:
    if issubclass(kind, TorporError):
        return kind
    return next((one for one in kind.__mro__ if one in _STATUS), kind)


def layer_of(error: Exception) -> str:
    """Which of our packages raised it: `store`, `engine`, `tools` or `runtime`."""
    layers = {store.StoreError: "store", engine.EngineError: "engine", tools.ToolsError: "tools"}
    return next((name for tree, name in layers.items() if isinstance(error, tree)), "runtime")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
