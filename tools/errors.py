"""Everything that `tools` raises.

ToolsError
├── BadDefinition        a function cannot become a tool, or two tools share a name: fix the code
├── BadLimits            a limit makes no sense: correct it
├── FolderMissing        the folder that a tool should work in is not there: name another
├── LedgerHeld           another process has the ledger's file open
├── LedgerDamaged        a ledger's file cannot be read whole: what it names may have happened
├── McpUnavailable       an MCP server is not connected; nothing was asked of it
│   └── McpUnauthorized  it refuses our credentials: give others
├── McpInterrupted       an MCP server was asked, and its answer did not come
├── SandboxUnavailable   no sandbox can be made on this machine: the message says what to change
├── SnapshotMissing      no workspace snapshot has this id: it was forgotten, or is elsewhere
├── WorkspaceExists      a workspace has this name: choose another, or delete it
├── WorkspacesUnusable   the folder of workspaces fails: a full disk, or rights; mend it
├── WorkspacesDiffer     two branches changed the same files in different ways: decide, then merge
├── UnknownFormat        no call format has this name
└── ToolFailed           raised inside a tool; its message is the result that the model reads
    ├── AddressRefused   a host, an address or a port that may not be connected to
    ├── OutsideWorkspace a path leads out of the workspace
    ├── TooDeep          folders are nested too deep to be kept
    └── WorkspaceFull    files are over the limits of a workspace
"""

from __future__ import annotations

from collections.abc import Sequence


class ToolsError(Exception):
    """Base of all errors of this package."""


class BadDefinition(ToolsError):
    """A function, or a set of tools, that cannot be offered to a model."""


class FolderMissing(ToolsError):
    """The folder given to a tool does not exist or is not a folder."""


class UnknownFormat(ToolsError):
    """There is no call format of this name; the message lists those there are."""


class LedgerHeld(ToolsError):
    """A ledger's file is open in another process."""


class LedgerDamaged(ToolsError):
    """A ledger's file is not whole; nothing in it was changed."""


class ToolFailed(ToolsError):
    """A tool could not do what it was asked. The message tells the model what to do instead."""


class BadLimits(ToolsError):
    """Limits that nothing could run under."""


class SandboxUnavailable(ToolsError):
    """Nothing was run, because it could not be isolated. There is no way around it."""


class SnapshotMissing(ToolsError):
    """A snapshot of a workspace, or one of the files it names, is not there."""


class WorkspaceExists(ToolsError):
    """The name of a new workspace is taken."""


class WorkspacesUnusable(ToolsError):
    """The machine refuses what is done with the files of workspaces."""


class WorkspacesDiffer(ToolsError):
    """Files that cannot be merged; nothing was changed. paths: of all of them, sorted"""

    def __init__(self, message: str, paths: Sequence[str]) -> None:
        super().__init__(message)
        self.paths = list(paths)


class OutsideWorkspace(ToolFailed):
    """A path is absolute, climbs with `..`, or goes through a link."""


class TooDeep(ToolFailed):
    """Folders are nested deeper than a workspace may be."""


class WorkspaceFull(ToolFailed):
    """More bytes or files than a workspace may hold."""


class AddressRefused(ToolFailed):
    """What a model wants to reach is not allowed, not public, or not there."""


class McpUnavailable(ToolsError):
    """There is no connection to an MCP server, or it answers nothing useful."""


class McpUnauthorized(McpUnavailable):
    """An MCP server wants credentials that it was not given. It is not tried again."""


class McpInterrupted(ToolsError):
    """A connection broke between a request and its answer: it may have been carried out."""
